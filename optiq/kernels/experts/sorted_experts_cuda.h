// Experts of many tokens on a CUDA device: rows sorted by their experts, each of whose
// matrices meets its rows in products of tiles on tensor cores, in bfloat16.
#pragma once
#include <cstddef>
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/glu/glu.h"

namespace optiq::kernels::cuda {

/// Shapes    x, residual, y [T, K]; ids, weights [T, n_active]; gate_and_up [2 E, N,
/// K],
///           all gates before all ups; down [E, K, N]
struct SortedExpertsArgs {
  const float* x;
  const std::int32_t* ids;
  const float* weights;
  const float* residual;             // null: none
  const std::uint16_t* gate_and_up;  // bfloat16
  const std::uint16_t* down;         // bfloat16
  float* y;
  int T, n_active, n_experts, K, N;
  GluGate f;
};

/// Bytes on the device that a call needs besides.
std::size_t sorted_experts_scratch_bytes(const SortedExpertsArgs& args);

/// y_t = residual_t + sum_i weight_ti down_e(f(gate_e x_t) * up_e x_t), e = id_ti.
///
/// Requires  n_experts <= kMostExperts (experts_cuda.h), K and N multiples of 8;
/// scratch
///           of 16 bytes' alignment
/// Cost      6 T n_active K N operations, by tiles of 128 rows of one expert
void sorted_experts(const SortedExpertsArgs& args, void* scratch,
                    const Launcher& launch);

}  // namespace optiq::kernels::cuda
