// low_rank.h's contract on a CUDA device, for a few rows.
#pragma once
#include <cstddef>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/low_rank/low_rank.h"

namespace optiq::kernels::cuda {

/// Rows beyond which products by a library are faster.
inline constexpr int kMostLowRankRows = 64;

/// Bytes on the device that a call needs besides.
std::size_t low_rank_scratch_bytes(std::span<const LowRankArgs> products);

/// Pointers of products and factors are the device's. Two launches for all products,
/// more where they have many parts. A row's result does not depend on the others.
///
/// Cost      reads a once for each row; b once for each part
void low_rank(std::span<const LowRankArgs> products, void* scratch,
              const Launcher& launch);

}  // namespace optiq::kernels::cuda
