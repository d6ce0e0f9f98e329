// causal_conv.h's contract on a CUDA device.
#pragma once
#include "optiq/kernels/causal_conv/causal_conv.h"
#include "optiq/kernels/cuda_launch.h"

namespace optiq::kernels::cuda {

inline constexpr int kMostConvKernel = 8;

/// All pointers but `segments` are the device's. A tail may be written where it was.
///
/// Requires  kernel <= kMostConvKernel
void causal_conv_silu(const CausalConvArgs& args, const Launcher& launch);

}  // namespace optiq::kernels::cuda
