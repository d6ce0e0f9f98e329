// Rows of an embedding table, dense or quantized, on MLX arrays.
#pragma once
#include "mlx/array.h"
#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::kernels {

/// The rows `ids` of the table, as float32.
///
/// Shapes    ids [T] int32; table [V, K] -> [T, K]
/// Requires  0 <= ids < V
mx::array embedding(const mx::array& ids, const LinearWeight& table);

}  // namespace optiq::kernels
