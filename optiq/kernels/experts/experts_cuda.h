// experts.h's and route.h's contracts on a CUDA device, for a few rows.
#pragma once
#include <cstddef>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/experts/experts.h"
#include "optiq/kernels/experts/route.h"

namespace optiq::kernels::cuda {

inline constexpr int kMostExperts = 1024;
/// Of a call's tokens with an expert each.
inline constexpr int kMostPairs = 1024;

/// Requires  n_experts <= kMostExperts
void route(const RouteArgs& args, const Launcher& launch);

/// True where experts() takes the experts' matrices: affine codes with scales of 16
/// bits, of any width and group in each of them.
bool has_experts(const MatrixView& gate, const MatrixView& up, const MatrixView& down);

/// Bytes on the device that a call needs besides.
std::size_t experts_scratch_bytes(const ExpertsArgs& args);

/// All pointers are the device's; x in whole numbers as in linear_cuda.h. A token's
/// result does not depend on the others.
///
/// Requires  has_experts; T n_active <= kMostPairs; scratch of 16 bytes' alignment
/// Cost      reads the matrices of the experts in use once for every four rows (two if
///           exact) of x that an expert gets
void experts(const ExpertsArgs& args, void* scratch, const Launcher& launch);

}  // namespace optiq::kernels::cuda
