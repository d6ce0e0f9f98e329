// The MLP of a mixture of experts: a router sends each token through a few of many.
#pragma once
#include "optiq/models/layers/mlp.h"

namespace optiq::models {

struct SparseMlp {
  LinearModule router;          // [E, hidden_size]
  LinearModule gate, up, down;  // of all experts
  int n_active = 0;
  bool normalize = true;
  // An expert that all tokens visit, with a gate of one row.
  std::optional<Mlp> shared{};
  std::optional<LinearModule> shared_gate{};

  /// Shapes    x, residual [T, hidden_size] -> residual + mlp(x)
  mx::array operator()(const mx::array& x, const std::optional<mx::array>& residual,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
