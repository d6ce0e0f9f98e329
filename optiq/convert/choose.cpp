#include "optiq/convert/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/convert/write.h"
#include "optiq/sensitivity/allocate.h"
#include "optiq/sensitivity/static_costs.h"

namespace optiq::convert {
namespace {

using sensitivity::Allocation;
using sensitivity::Item;
using sensitivity::Sensitivities;

// mlx-optiq multiplies by 100; here the divergence of these layers was measured, so a
// mild weight is left for what a short calibration does not see.
constexpr double kProtectedWeight = 4;

// Projections that read the same input, which fused kernels like in one format.
std::string tie_key(const std::string& path) {
  constexpr std::pair<std::string_view, std::string_view> kTies[] = {
      {".q_proj", ".qkv"},        {".k_proj", ".qkv"},
      {".v_proj", ".qkv"},        {".gate_proj", ".gate_up"},
      {".up_proj", ".gate_up"},   {".in_proj_qkv", ".in_proj"},
      {".in_proj_z", ".in_proj"}, {".in_proj_a", ".in_proj"},
      {".in_proj_b", ".in_proj"},
  };
  for (const auto& [end, key] : kTies)
    if (path.ends_with(end))
      return path.substr(0, path.size() - end.size()) + std::string(key);
  return path;
}

const QuantSpec& spec_of(const sensitivity::Choice& choice) {
  return std::get<QuantSpec>(choice.spec);
}

// Items with choices -> plan, whatever the choices stand for. Matrices without an item
// keep their format of `rest`.
Plan solve(const checkpoint::Checkpoint& source, const std::vector<Matrix>& matrices,
           const std::vector<Item>& items, const PlanBudget& budget, bool tie_fused,
           const Plan& rest) {
  std::vector<std::vector<std::size_t>> groups;
  if (tie_fused) {
    std::map<std::string, std::vector<std::size_t>> by_key;
    for (std::size_t i = 0; i < items.size(); ++i)
      by_key[tie_key(items[i].name)].push_back(i);
    for (auto& [key, members] : by_key)
      if (members.size() > 1) groups.push_back(std::move(members));
  }
  const sensitivity::TiedItems tied = sensitivity::tie(items, groups);
  const auto plan_for = [&](const sensitivity::Budget& limit) {
    const Allocation allocation = sensitivity::allocate(tied.items, limit);
    Plan plan = rest;
    for (std::size_t t = 0; t < tied.items.size(); ++t)
      for (std::size_t i : tied.members[t])
        plan[items[i].name] = spec_of(
            tied.items[t].choices[static_cast<std::size_t>(allocation.choices[t])]);
    return plan;
  };
  if (!budget.target_size)
    return plan_for(sensitivity::BitsPerWeight{budget.target_bpw});

  // Bytes of the file beside the items': small tensors and headers, whose length
  // depends a little on the plan.
  const auto item_bytes = [&](const Plan& plan) {
    std::int64_t bytes = 0;
    for (const Matrix& matrix : matrices)
      if (std::ranges::any_of(items,
                              [&](const Item& i) { return i.name == matrix.path; }))
        bytes += matrix.bytes(plan.at(matrix.path));
    return bytes;
  };
  Plan plan = rest;
  for (const Item& item : items) plan[item.name] = spec_of(item.choices.front());
  std::int64_t limit =
      *budget.target_size - (planned_bytes(source, plan) - item_bytes(plan));
  for (int attempt = 0; attempt < 8; ++attempt) {
    plan = plan_for(sensitivity::TotalBytes{limit});
    const std::int64_t excess = planned_bytes(source, plan) - *budget.target_size;
    if (excess <= 0) return plan;
    limit -= excess;
  }
  OPTIQ_CHECK(false, "no plan within the bytes after eight attempts");
}

Plan float_plan(const std::vector<Matrix>& matrices) {
  Plan plan;
  for (const Matrix& matrix : matrices) plan[matrix.path] = std::nullopt;
  return plan;
}

}  // namespace

bool PlanBudget::allows(const checkpoint::Checkpoint& source,
                        const std::vector<Matrix>& matrices, const Plan& plan) const {
  if (target_size) return planned_bytes(source, plan) <= *target_size;
  return average_bits(matrices, plan) <= target_bpw + 1e-9;
}

Plan allocate_plan(const checkpoint::Checkpoint& source,
                   const std::vector<Matrix>& matrices,
                   const Sensitivities& sensitivities, const PlanBudget& budget,
                   int n_blocks, bool protect, bool tie_fused) {
  std::vector<Item> items;
  for (const auto& layer : sensitivities.layers) {
    if (layer.formats.empty()) continue;
    Item item{layer.name, layer.params, {}, 1};
    if (protect && sensitivity::is_protected(layer.name, n_blocks))
      item.weight = kProtectedWeight;
    for (const auto& cost : layer.formats)
      item.choices.push_back({cost.spec, cost.bytes, cost.kl});
    items.push_back(std::move(item));
  }
  if (items.empty()) return float_plan(matrices);
  return solve(source, matrices, items, budget, tie_fused, float_plan(matrices));
}

std::vector<Contender> uniform_contenders(const checkpoint::Checkpoint& source,
                                          const std::vector<Matrix>& matrices,
                                          const PlanBudget& budget, QuantMode mode,
                                          const std::vector<int>& bits,
                                          std::optional<int> only) {
  std::vector<int> falling = bits;
  std::ranges::sort(falling, std::greater<>());
  std::vector<Contender> contenders;
  int smallest_group = 1 << 30;
  for (int b : falling)
    for (int group_size : info(mode).group_sizes) {
      // A wider format that fits with this group size leaves this one behind.
      if ((only && group_size != *only) || group_size >= smallest_group ||
          !is_supported({mode, b, group_size}))
        continue;
      const QuantSpec spec{mode, b, group_size};
      Plan plan = uniform_plan(matrices, spec);
      if (!budget.allows(source, matrices, plan)) continue;
      contenders.push_back({"uniform " + describe(spec), std::move(plan), 0});
      smallest_group = group_size;
    }
  return contenders;
}

Contender verify_jointly(Encoder& encoder, sensitivity::DivergenceMeter& meter,
                         std::vector<Contender> contenders) {
  OPTIQ_CHECK(!contenders.empty(), "a choice needs contenders");
  for (Contender& contender : contenders) {
    encoder.apply(contender.plan);
    meter.restart();
    contender.kl = meter.measure().mean;
  }
  encoder.restore();
  return *std::ranges::min_element(contenders, {}, &Contender::kl);
}

Contender refine(const checkpoint::Checkpoint& source, Encoder& encoder,
                 sensitivity::DivergenceMeter& meter,
                 const Sensitivities& sensitivities, const PlanBudget& budget,
                 Contender start, bool tie_fused, int rounds, int step_windows) {
  const std::vector<Matrix>& matrices = encoder.matrices();
  const auto joint = [&](const Plan& plan) {
    encoder.apply(plan);
    meter.restart();
    return meter.measure().mean;
  };
  const auto matrix_of = [&](const std::string& path) -> const Matrix& {
    return *std::ranges::find(matrices, path, &Matrix::path);
  };
  const sensitivity::Extent step{step_windows, /*every_second_token=*/true};
  if (start.kl == 0) start.kl = joint(start.plan);

  for (int round = 0; round < rounds; ++round) {
    encoder.apply(start.plan);
    meter.restart();
    const double here = meter.measure(step).mean;
    std::vector<Item> items;
    for (const auto& layer : sensitivities.layers) {
      const auto& current = start.plan.at(layer.name);
      meter.advance_to(layer.layer);
      if (!current || layer.formats.empty()) continue;
      const Matrix& matrix = matrix_of(layer.name);
      std::vector<QuantSpec> specs;
      for (const auto& cost : layer.formats) specs.push_back(cost.spec);
      if (std::ranges::find(specs, *current) == specs.end()) specs.push_back(*current);
      std::ranges::sort(specs, {}, [&](const QuantSpec& s) { return matrix.bytes(s); });
      const auto at = std::ranges::find(specs, *current) - specs.begin();
      Item item{layer.name, layer.params, {}, 1};
      for (auto i = std::max<std::ptrdiff_t>(at - 1, 0);
           i <= std::min<std::ptrdiff_t>(at + 1, std::ssize(specs) - 1); ++i) {
        const QuantSpec& spec = specs[static_cast<std::size_t>(i)];
        double change = 0;
        if (i != at) {
          encoder.apply(layer.name, spec);
          change = meter.measure(step).mean - here;
          encoder.apply(layer.name, *current);
        }
        item.choices.push_back({spec, matrix.bytes(spec), change});
      }
      items.push_back(std::move(item));
    }

    // Steps add up less well the more of them are taken at once: a loss is weighed
    // heavier than a gain, and heavier again each time the sum was too hopeful.
    bool improved = false;
    for (double caution : {1.0, 1.5, 3.0}) {
      std::vector<Item> weighed = items;
      for (Item& item : weighed)
        for (sensitivity::Choice& choice : item.choices)
          if (choice.cost > 0) choice.cost *= caution;
      Contender next{start.label + ", refined",
                     solve(source, matrices, weighed, budget, tie_fused, start.plan),
                     0};
      if (next.plan == start.plan) break;
      next.kl = joint(next.plan);
      if (next.kl < start.kl) {
        next.label = start.label.ends_with(", refined") ? start.label : next.label;
        start = std::move(next);
        improved = true;
        break;
      }
    }
    if (!improved) break;
  }
  encoder.restore();
  return start;
}

Contender fill(const checkpoint::Checkpoint& source, Encoder& encoder,
               sensitivity::DivergenceMeter& meter, const Sensitivities& sensitivities,
               const PlanBudget& budget, Contender start, bool tie_fused) {
  const std::vector<Matrix>& matrices = encoder.matrices();
  std::vector<Item> items;
  for (const auto& layer : sensitivities.layers) {
    const auto& current = start.plan.at(layer.name);
    if (!current) continue;
    const Matrix& matrix = *std::ranges::find(matrices, layer.name, &Matrix::path);
    Item item{layer.name, layer.params, {{*current, matrix.bytes(current), 0}}, 1};
    // A uniform plan may have groups that were not measured: then a measured format of
    // as many bits stands for its divergence.
    std::optional<double> kl;
    for (const auto& cost : layer.formats)
      if (cost.spec == *current || (!kl && cost.spec.bits == current->bits))
        kl = cost.kl;
    for (const auto& cost : layer.formats)
      if (kl && cost.bytes > matrix.bytes(current))
        item.choices.push_back({cost.spec, cost.bytes, cost.kl - *kl});
    items.push_back(std::move(item));
  }
  if (items.empty()) return start;
  Contender next{start.label + ", filled",
                 solve(source, matrices, items, budget, tie_fused, start.plan), 0};
  if (next.plan == start.plan) return start;
  for (Contender* contender : {&start, &next}) {
    if (contender->kl > 0) continue;
    encoder.apply(contender->plan);
    meter.restart();
    contender->kl = meter.measure().mean;
  }
  encoder.restore();
  return next.kl < start.kl ? next : start;
}

}  // namespace optiq::convert
