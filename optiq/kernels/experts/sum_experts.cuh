// What the experts of a token make of it, summed by their weights.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/float_type.h"

namespace optiq::kernels::cuda {

struct SumExpertsArgs {
  const void* z;  // [T, n_active, K]
  FloatType type;
  const float* weights;   // [T, n_active]
  const float* residual;  // [T, K], or null
  float* y;               // [T, K]
  int T, n_active, K;
};

void sum_experts(const SumExpertsArgs& args, const Launcher& launch);

}  // namespace optiq::kernels::cuda
