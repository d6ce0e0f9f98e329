#include "optiq/models/layers/expert_inputs.h"

#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/glu/glu_primitive.h"

namespace optiq::models {
namespace {

// The matrix of one expert out of those that stand one below the other.
kernels::LinearWeight expert_of(const LinearModule& module, int expert) {
  kernels::LinearWeight w = module.weight;
  const int N = w.output_dim() / module.n_experts;
  for (std::optional<mx::array>* part : {&w.scales, &w.biases})
    if (*part)
      *part = mx::slice(**part, {expert * N, 0}, {(expert + 1) * N, (*part)->shape(1)});
  w.weight =
      mx::slice(w.weight, {expert * N, 0}, {(expert + 1) * N, w.weight.shape(1)});
  return w;
}

}  // namespace

void show_expert_inputs(const LayerCall& call, const mx::array& x,
                        const kernels::Route& route, const LinearModule& gate,
                        const LinearModule& up, const LinearModule& down,
                        kernels::GluGate f) {
  if (!call.expert_observer) return;
  mx::array ids = mx::contiguous(route.ids);
  mx::eval(ids, x);
  std::vector<std::vector<int>> rows(static_cast<std::size_t>(down.n_experts));
  for (int t = 0, i = 0; t < ids.shape(0); ++t)
    for (int a = 0; a < ids.shape(1); ++a, ++i)
      rows[static_cast<std::size_t>(ids.data<std::int32_t>()[i])].push_back(t);
  for (int e = 0; e < down.n_experts; ++e) {
    const std::vector<int>& mine = rows[static_cast<std::size_t>(e)];
    if (mine.empty()) continue;
    const mx::array given = mx::take(
        x, mx::array(mine.data(), {static_cast<int>(mine.size())}, mx::int32), 0);
    const auto product = [&](const LinearModule& module) {
      return kernels::linear(given, expert_of(module, e),
                             {call.batch.activation, std::nullopt});
    };
    call.expert_observer(down, e, kernels::glu_product(product(gate), product(up), f));
  }
}

}  // namespace optiq::models
