// The next token of each row, chosen where the logits lie.
#pragma once
#include <optional>
#include <span>

#include "mlx/array.h"
#include "optiq/kernels/sampling/row_draw.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// Draws as an array, for choose_tokens; `draws` are the array's bytes.
mx::array draws_array(std::span<const RowDraw> draws);

/// What each draw gives, as Sampler's calls do but for rounding of sums: of the number
/// drawn some 1e-7. -1 where the row has to be looked at: there is nothing to choose
/// from, or more than the device keeps. Nothing on the CPU, whose sampler reads the
/// rows itself.
///
/// Shapes    logits [rows, width] float32, draws of `rows` -> [rows] int32
std::optional<mx::array> choose_tokens(const mx::array& logits, const mx::array& draws);

}  // namespace optiq::kernels
