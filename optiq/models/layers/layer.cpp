#include "optiq/models/layers/layer.h"

#include <algorithm>

namespace optiq::models {

bool LayerCall::is_adapted(const LinearModule& module) const {
  return std::ranges::any_of(batch.adapters, [&](const AdapterPtr& adapter) {
    return adapter && adapter->find(module.name);
  });
}

// What adapters change of one product.
kernels::LowRankProduct LayerCall::change(
    const LinearModule& module, const mx::array& y,
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
  return {y, std::move(parts), residual,
          has_gain ? module.weight.bias : std::optional<mx::array>()};
}

mx::array LayerCall::linear(const LinearModule& module, const mx::array& x,
                            const std::optional<mx::array>& residual) const {
  if (observer) observer(module, x);
  const auto activation = batch.activation;
  if (!is_adapted(module))
    return kernels::linear(x, module.weight, {activation, residual});
  const mx::array y = kernels::linear(x, module.weight, {activation, std::nullopt});
  return kernels::low_rank(x, {change(module, y, residual)})[0];
}

std::vector<mx::array> LayerCall::linears(
    std::initializer_list<const LinearModule*> modules, const mx::array& x) const {
  std::vector<kernels::LinearWeight> weights;
  for (const LinearModule* module : modules) {
    if (observer) observer(*module, x);
    weights.push_back(module->weight);
  }
  auto products = kernels::linear_group(x, weights, batch.activation);
  std::vector<kernels::LowRankProduct> changes;
  std::vector<mx::array*> places;
  auto y = products.begin();
  for (const LinearModule* module : modules) {
    if (is_adapted(*module)) {
      changes.push_back(change(*module, *y, std::nullopt));
      places.push_back(&*y);
    }
    ++y;
  }
  if (changes.empty()) return products;
  const auto changed = kernels::low_rank(x, changes);
  for (std::size_t i = 0; i < places.size(); ++i) *places[i] = changed[i];
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
