#include "optiq/models/layers/sparse_mlp.h"

#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/experts/experts_primitive.h"
#include "optiq/models/layers/expert_inputs.h"

namespace optiq::models {

mx::array SparseMlp::operator()(const mx::array& x,
                                const std::optional<mx::array>& residual,
                                const LayerCall& call) const {
  // Which experts a token visits is decided by differences that int8 would blur.
  const auto exact = [&](const LinearModule& module) {
    return call.linear(module, x, std::nullopt, kernels::Activation::kExact);
  };
  const kernels::Route route =
      kernels::route(exact(router), {n_active, normalize, std::nullopt});
  if (call.observer) call.observer(gate, x);
  if (call.observer) call.observer(up, x);
  show_expert_inputs(call, x, route, gate, up, down, kernels::GluGate::kSilu);
  const mx::array y =
      kernels::experts(x, route, {gate.weight, up.weight, down.weight, gate.n_experts},
                       kernels::GluGate::kSilu, call.batch.activation, residual);
  if (!shared) return y;
  return kernels::gated_sum(y, (*shared)(x, std::nullopt, call), exact(*shared_gate));
}

}  // namespace optiq::models
