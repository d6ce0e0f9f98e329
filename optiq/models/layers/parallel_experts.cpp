#include "optiq/models/layers/parallel_experts.h"

#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/experts/experts_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"
#include "optiq/models/layers/expert_inputs.h"

namespace optiq::models {

mx::array ParallelExperts::operator()(const mx::array& dense, const mx::array& x,
                                      const LayerCall& call) const {
  // Which experts a token visits is decided by differences that int8 would blur.
  const mx::array logits = call.linear(router, kernels::rms_norm(x, router_norm, eps),
                                       std::nullopt, kernels::Activation::kExact);
  const kernels::Route route = kernels::route(
      logits, {.n_active = n_active, .normalize = true, .expert_scale = expert_scale});
  const mx::array normed = kernels::rms_norm(x, input_norm, eps);
  if (call.observer) call.observer(gate, normed);
  if (call.observer) call.observer(up, normed);
  show_expert_inputs(call, normed, route, gate, up, down, f);
  const mx::array y = kernels::experts(
      normed, route, {gate.weight, up.weight, down.weight, gate.n_experts}, f,
      call.batch.activation);
  return kernels::scaled_sum(kernels::rms_norm(dense, dense_norm, eps),
                             kernels::rms_norm(y, output_norm, eps), 1);
}

}  // namespace optiq::models
