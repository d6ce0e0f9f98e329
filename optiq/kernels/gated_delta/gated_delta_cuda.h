// gated_delta.h's contract on a CUDA device.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/gated_delta/gated_delta.h"

namespace optiq::kernels::cuda {

inline constexpr int kMostKeyDim = 256;

/// All pointers but `segments` are the device's; `form` is not looked at: token by
/// token. No other kernel may write a state while the one before this runs, for states
/// are read before that has ended.
///
/// Requires  key_dim <= kMostKeyDim
/// Cost      one token is bound by the bytes of the state, more by some 200
/// instructions
///           of a warp a token, with n_value_heads value_dim / 8 warps
void gated_delta(const GatedDeltaArgs& args, const Launcher& launch);

}  // namespace optiq::kernels::cuda
