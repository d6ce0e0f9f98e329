#include "optiq/models/layers/layer.h"

#include <algorithm>

namespace optiq::models {

bool LayerCall::is_adapted(const LinearModule& module) const {
  return std::ranges::any_of(batch.adapters, [&](const AdapterPtr& adapter) {
    return adapter && adapter->find(module.name);
  });
}

mx::array LayerCall::adapt(const LinearModule& module, const mx::array& x,
                           const mx::array& y,
                           const std::optional<mx::array>& residual) const {
  std::vector<kernels::LowRankPart> parts;
  bool has_gain = false;
  for (std::size_t i = 0; i < batch.segments.size(); ++i) {
    const AdapterPtr& adapter = batch.adapters[i];
    const kernels::LowRank* factors = adapter ? adapter->find(module.name) : nullptr;
    has_gain = has_gain || (factors && factors->gain);
    const int rows = batch.segments[i].tokens;
    if (!parts.empty() && parts.back().factors == factors)
      parts.back().rows += rows;
    else
      parts.push_back({rows, factors});
  }
  return kernels::low_rank(
      x, y, parts,
      {residual, has_gain ? module.weight.bias : std::optional<mx::array>()});
}

mx::array LayerCall::linear(const LinearModule& module, const mx::array& x,
                            const std::optional<mx::array>& residual) const {
  if (observer) observer(module, x);
  const auto activation = batch.activation;
  if (!is_adapted(module))
    return kernels::linear(x, module.weight, {activation, residual});
  return adapt(module, x, kernels::linear(x, module.weight, {activation, std::nullopt}),
               residual);
}

std::vector<mx::array> LayerCall::linears(
    std::initializer_list<const LinearModule*> modules, const mx::array& x) const {
  std::vector<kernels::LinearWeight> weights;
  for (const LinearModule* module : modules) {
    if (observer) observer(*module, x);
    weights.push_back(module->weight);
  }
  auto products = kernels::linear_group(x, weights, batch.activation);
  auto y = products.begin();
  for (const LinearModule* module : modules) {
    if (is_adapted(*module)) *y = adapt(*module, x, *y, std::nullopt);
    ++y;
  }
  return products;
}

mx::array LayerCall::swiglu(const LinearModule& gate, const LinearModule& up,
                            const mx::array& x) const {
  if (is_adapted(gate) || is_adapted(up)) {
    const auto halves = linears({&gate, &up}, x);
    return kernels::silu_product(halves[0], halves[1]);
  }
  if (observer) observer(gate, x);
  if (observer) observer(up, x);
  return kernels::swiglu(x, gate.weight, up.weight, batch.activation);
}

}  // namespace optiq::models
