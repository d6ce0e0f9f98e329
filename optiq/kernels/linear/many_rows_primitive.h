// Products of many rows on a GPU, with weights that are dequantized to bfloat16 on the
// way: bound by arithmetic, not by the weights' bytes. Builds for CUDA alone.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// True for weights that linear_many and glu_many take: affine codes, few matrices.
bool has_many_rows(std::span<const LinearWeight> weights);

/// The weights one below the other, [sum of N, K] bfloat16.
mx::array dequantized_bf16(std::span<const LinearWeight> weights);

/// x W^T + bias for each weight, the residual added to the first.
///
/// Shapes    x [T, K] float32 -> [T, N] float32 for each
/// Requires  has_many_rows
std::vector<mx::array> linear_many(const mx::array& x,
                                   std::span<const LinearWeight> weights,
                                   const std::optional<mx::array>& residual);

/// f(x gate^T) (x up^T), as float32: where it is the input of another product of many
/// rows its bfloat16 is taken as it is.
///
/// Requires  has_many_rows, no biases
mx::array glu_many(const mx::array& x, std::span<const LinearWeight> gate_and_up,
                   GluGate f);

}  // namespace optiq::kernels
