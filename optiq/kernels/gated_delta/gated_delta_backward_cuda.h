// gated_delta_backward.h's contract on a CUDA device.
#pragma once
#include <cstddef>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/gated_delta/gated_delta_backward.h"

namespace optiq::kernels::cuda {

/// Of keys and of values.
inline constexpr int kMostBackwardDim = 128;

/// Bytes on the device that a call needs besides.
std::size_t gated_delta_backward_bytes(const GatedDeltaBackwardArgs& args);

/// All pointers but `segments` and the list `d_states` are the device's.
///
/// Requires  key_dim and value_dim <= kMostBackwardDim
/// Cost      a block for each head of a segment goes through its tokens twice forth and
///           once back, some 2 us a token
void gated_delta_backward(const GatedDeltaBackwardArgs& args, void* scratch,
                          const Launcher& launch);

}  // namespace optiq::kernels::cuda
