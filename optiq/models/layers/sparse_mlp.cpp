#include "optiq/models/layers/sparse_mlp.h"

#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/experts/experts_primitive.h"

namespace optiq::models {
namespace {

// Which experts a token visits is decided by differences that int8 would blur.
mx::array exact_linear(const LinearModule& module, const mx::array& x,
                       const LayerCall& call) {
  Batch batch = call.batch;
  batch.activation = kernels::Activation::kExact;
  return LayerCall{call.index, batch, call.observer, call.output_hook}.linear(
      module, x, std::nullopt);
}

}  // namespace

mx::array SparseMlp::operator()(const mx::array& x,
                                const std::optional<mx::array>& residual,
                                const LayerCall& call) const {
  const kernels::Route route = kernels::route(exact_linear(router, x, call),
                                              {n_active, normalize, std::nullopt});
  if (call.observer) call.observer(gate, x);
  if (call.observer) call.observer(up, x);
  const mx::array y =
      kernels::experts(x, route, {gate.weight, up.weight, down.weight, gate.n_experts},
                       kernels::GluGate::kSilu, call.batch.activation, residual);
  if (!shared) return y;
  return kernels::gated_sum(y, (*shared)(x, std::nullopt, call),
                            exact_linear(*shared_gate, x, call));
}

}  // namespace optiq::models
