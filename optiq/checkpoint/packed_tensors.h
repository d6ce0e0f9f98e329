// Matrices that GPTQ, AWQ or compressed-tensors packed, seen in MLX's format or in
// float.
//
// All are affine codes of neighbouring columns, so MLX's format holds them as they are:
// the same codes in another order, the scales transposed, biases = -scale x zero point
// (rounded to the scales' type: exact for symmetric codes). Where columns of a group
// are not neighbours, or a group is a row, the matrix is seen in float.
#pragma once
#include <vector>

#include "optiq/checkpoint/computed_tensor.h"
#include "optiq/checkpoint/packed_config.h"

namespace optiq::checkpoint {

/// `X.weight`, `X.scales` and `X.biases` for every packed matrix X among `tensors`, or
/// `X.weight` alone if `as_floats` or MLX has no such form.
///
/// Throws    CheckpointError naming the tensor: one that is missing, of another type or
///           shape
std::vector<ComputedTensor> find_packed(const std::vector<const TensorInfo*>& tensors,
                                        const PackedConfig& config, bool as_floats);

}  // namespace optiq::checkpoint
