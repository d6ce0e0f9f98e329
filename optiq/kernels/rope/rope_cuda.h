// rope.h's contract on a CUDA device.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/rope/rope.h"

namespace optiq::kernels::cuda {

/// kernels::rope, all pointers of the device.
void rope(const RopeArgs& args, const Launcher& launch);

}  // namespace optiq::kernels::cuda
