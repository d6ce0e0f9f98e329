// What of sampling a CUDA device does.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"

namespace optiq::kernels::cuda {

/// sampling_primitive.h's largest_logits: logits [rows, width], ids [rows].
void largest_logits(const float* logits, int rows, int width, std::int32_t* ids,
                    const Launcher& launch);

}  // namespace optiq::kernels::cuda
