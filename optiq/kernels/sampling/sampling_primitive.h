// The largest logit of each row, found where the logits lie.
#pragma once
#include <optional>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// The id of the largest logit of each row, of equal ones the lowest; -1 where one is
/// not a number, or the largest is not finite. Nothing on the CPU, whose sampler reads
/// the rows itself.
///
/// Shapes    logits [rows, width] float32 -> [rows] int32
std::optional<mx::array> largest_logits(const mx::array& logits);

}  // namespace optiq::kernels
