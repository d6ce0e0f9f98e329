// The gated MLP: down(f(gate x) * up x).
#pragma once
#include "optiq/models/layers/layer.h"

namespace optiq::models {

struct Mlp {
  LinearModule gate;
  std::optional<LinearModule> up;  // none: its rows are in `gate`, below the gate's own
  LinearModule down;
  kernels::GluGate f = kernels::GluGate::kSilu;

  /// Shapes    x, residual [T, hidden_size] -> residual + mlp(x)
  mx::array operator()(const mx::array& x, const std::optional<mx::array>& residual,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
