#include "optiq/models/layers/mlp.h"

namespace optiq::models {

mx::array Mlp::operator()(const mx::array& x, const mx::array& residual,
                          const LayerCall& call) const {
  const auto activation = call.batch.activation;
  call.observe(gate, x);
  call.observe(up, x);
  const mx::array h = kernels::swiglu(x, gate.weight, up.weight, activation);
  call.observe(down, h);
  return kernels::linear(h, down.weight, {activation, residual});
}

}  // namespace optiq::models
