// The gated MLP of llama-like models: down(silu(gate x) * up x).
#pragma once
#include "optiq/models/layers/layer.h"

namespace optiq::models {

struct Mlp {
  LinearModule gate;
  LinearModule up;
  LinearModule down;

  /// Shapes    x, residual [T, hidden_size] -> residual + mlp(x)
  mx::array operator()(const mx::array& x, const mx::array& residual,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
