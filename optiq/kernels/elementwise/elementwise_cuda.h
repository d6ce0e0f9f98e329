// elementwise.h's contracts on a CUDA device.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"

namespace optiq::kernels::cuda {

void scaled_sum(const float* a, const float* b, float scale, float* y, std::int64_t n,
                const Launcher& launch);
void gated_sum(const float* a, const float* b, const float* gate, float* y,
               std::int64_t rows, std::int64_t n, const Launcher& launch);
void softcap(const float* x, float cap, float* y, std::int64_t n,
             const Launcher& launch);

}  // namespace optiq::kernels::cuda
