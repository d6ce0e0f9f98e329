#include "optiq/models/layers/mlp.h"

namespace optiq::models {

mx::array Mlp::operator()(const mx::array& x, const std::optional<mx::array>& residual,
                          const LayerCall& call) const {
  return call.linear(down, call.glu(gate, up, f, x), residual);
}

}  // namespace optiq::models
