#include "optiq/models/layers/layer.h"

#include <algorithm>

#include "mlx/ops.h"
#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/glu/glu_primitive.h"

namespace optiq::models {
namespace {

// Rows [begin, begin + n) of a matrix: views, nothing is copied.
kernels::LinearWeight rows_of(const kernels::LinearWeight& w, int begin, int n) {
  const auto part = [&](const mx::array& a) {
    mx::Shape first(a.ndim(), 0), last = a.shape();
    first[0] = begin;
    last[0] = begin + n;
    return mx::slice(a, first, last);
  };
  const auto part_of = [&](const std::optional<mx::array>& a) {
    return a ? std::optional(part(*a)) : std::nullopt;
  };
  return {part(w.weight), part_of(w.scales), part_of(w.biases), part_of(w.bias),
          w.spec};
}

}  // namespace

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
                            const std::optional<mx::array>& residual,
                            const std::optional<kernels::Activation>& chosen) const {
  if (observer) observer(module, x);
  const auto activation = chosen.value_or(batch.activation);
  if (output_hook) {
    const mx::array y = output_hook(
        module, kernels::linear(x, module.weight, {activation, std::nullopt}));
    return residual ? kernels::scaled_sum(y, residual, 1) : y;
  }
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
    if (output_hook) *y = output_hook(*module, *y);
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

std::vector<mx::array> LayerCall::packed(const LinearModule& module,
                                         const std::vector<int>& rows,
                                         const mx::array& x) const {
  int begin = 0;
  if (output_hook || is_adapted(module)) {
    const mx::array y = linear(module, x, std::nullopt);
    std::vector<mx::array> parts;
    for (const int n : rows) {
      parts.push_back(mx::slice(y, {0, begin}, {y.shape(0), begin + n}));
      begin += n;
    }
    return parts;
  }
  if (observer) observer(module, x);
  std::vector<kernels::LinearWeight> weights;
  for (const int n : rows) {
    weights.push_back(rows_of(module.weight, begin, n));
    begin += n;
  }
  return kernels::linear_group(x, weights, batch.activation);
}

mx::array LayerCall::glu(const LinearModule& gate,
                         const std::optional<LinearModule>& up, kernels::GluGate f,
                         const mx::array& x) const {
  const int N = gate.weight.output_dim() / (up ? 1 : 2);
  if (output_hook || is_adapted(gate) || (up && is_adapted(*up))) {
    const auto halves = up ? linears({&gate, &*up}, x) : packed(gate, {N, N}, x);
    return kernels::glu_product(halves[0], halves[1], f);
  }
  if (observer) observer(gate, x);
  if (up) {
    if (observer) observer(*up, x);
    return kernels::glu(x, gate.weight, up->weight, f, batch.activation);
  }
  return kernels::glu(x, rows_of(gate.weight, 0, N), rows_of(gate.weight, N, N), f,
                      batch.activation);
}

}  // namespace optiq::models
