// rms_norm.h's contract on a CUDA device.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/rms_norm/rms_norm.h"

namespace optiq::kernels::cuda {

/// kernels::rms_norm, all pointers of the device.
void rms_norm(const RmsNormArgs& args, const Launcher& launch);

}  // namespace optiq::kernels::cuda
