#include "optiq/models/layers/mlp.h"

namespace optiq::models {

mx::array Mlp::operator()(const mx::array& x, const mx::array& residual,
                          const LayerCall& call) const {
  return call.linear(down, call.swiglu(gate, up, x), residual);
}

}  // namespace optiq::models
