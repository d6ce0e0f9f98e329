// Routing of tokens to experts, and the experts, on MLX arrays.
#pragma once
#include <optional>

#include "mlx/array.h"
#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::kernels {

namespace mx = mlx::core;

struct RouteOptions {
  int n_active = 1;
  bool normalize = true;                  // weights of a token sum to 1
  std::optional<mx::array> expert_scale;  // [E], multiplies them then
};

/// The experts of each token and their weights (route.h).
struct Route {
  mx::array ids;      // [T, n_active] int32
  mx::array weights;  // [T, n_active] float32
};

/// Shapes    logits [T, E] float32
Route route(const mx::array& logits, const RouteOptions& options);

/// The matrices of E experts, each kind one below the other.
struct ExpertWeights {
  LinearWeight gate, up;  // [E N, K]
  LinearWeight down;      // [E K, N]
  int n_experts = 0;
};

/// residual + the weighted sum of what the experts of each token make of it.
///
/// Shapes    x, residual [T, K] float32 -> [T, K]
mx::array experts(const mx::array& x, const Route& route, const ExpertWeights& weights,
                  GluGate f, Activation activation,
                  const std::optional<mx::array>& residual = std::nullopt);

}  // namespace optiq::kernels
