// glu.h's product on a CUDA device.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/glu/glu.h"

namespace optiq::kernels::cuda {

/// kernels::glu_product, all pointers of the device.
void glu_product(GluGate gate, const float* g, const float* u, float* y, std::int64_t n,
                 const Launcher& launch);

}  // namespace optiq::kernels::cuda
