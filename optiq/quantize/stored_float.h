// Scales and biases as a checkpoint stores them, one at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "optiq/kernels/float_type.h"

namespace optiq::quantize {

/// The value nearest to x in `type`; beyond its range, infinity.
inline float stored(float x, FloatType type) {
  if (type == FloatType::kBF16) return bf16_to_float(float_to_bf16(x));
  return type == FloatType::kF16 ? f16_to_float(float_to_f16(x)) : x;
}

/// data[index] = x, for an array of `type`; load_float() is the reverse.
inline void store(std::vector<std::byte>& data, std::int64_t index, float x,
                  FloatType type) {
  if (type == FloatType::kF32) {
    std::memcpy(data.data() + 4 * index, &x, 4);
    return;
  }
  const std::uint16_t bits =
      type == FloatType::kBF16 ? float_to_bf16(x) : float_to_f16(x);
  std::memcpy(data.data() + 2 * index, &bits, 2);
}

}  // namespace optiq::quantize
