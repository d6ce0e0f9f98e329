// All layers of a forward call, with little memory for what lies between them.
#pragma once
#include "mlx/array.h"
#include "optiq/models/model.h"

namespace optiq::generation {

/// Tokens of a prompt in one forward call, as far as nobody waits. A GPU takes more:
/// with many rows each call brings all weights into another form first.
int rows_of_prefill();

/// models::Model::hidden(), but calls of many rows are evaluated layer by layer: MLX
/// runs up to a hundred operations ahead of the one that computes and allocates what
/// they give, ten layers of it.
///
/// Shapes    ids [T] int32 -> [T, hidden_size]; the last layer is not evaluated
mlx::core::array forward_layers(models::Model& model, const mlx::core::array& ids,
                                const models::Batch& batch);

}  // namespace optiq::generation
