// How activations meet quantized weights.
#pragma once

namespace optiq::kernels {

/// Rounded to int8 per group, or as they are. Dense weights always meet float32.
enum class Activation { kInt8, kExact };

}  // namespace optiq::kernels
