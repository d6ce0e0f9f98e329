#include "optiq/sensitivity/allocate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "optiq/sensitivity/exact_allocation.h"
#include "optiq/sensitivity/frontier.h"

namespace optiq::sensitivity {
namespace {

constexpr double kGap = 1e-3;  // relative; a smaller one is not worth a search

void check(std::span<const Item> items) {
  if (items.empty()) throw std::invalid_argument("[allocate] no items");
  for (const Item& item : items) {
    if (item.params <= 0 || item.choices.empty())
      throw std::invalid_argument(
          fmt::format("[allocate] {} has {} parameters and {} choices", item.name,
                      item.params, item.choices.size()));
    if (!std::isfinite(item.weight) || item.weight < 0)
      throw std::invalid_argument(
          fmt::format("[allocate] {} has weight {}", item.name, item.weight));
    for (const Choice& choice : item.choices)
      if (!std::isfinite(item.weight * choice.cost) || choice.bytes < 0 ||
          bits_of(choice.spec) <= 0)
        throw std::invalid_argument(
            fmt::format("[allocate] {} at {} bits has cost {} and {} bytes", item.name,
                        bits_of(choice.spec), choice.cost, choice.bytes));
  }
}

std::int64_t limit_in_units(std::span<const Item> items, const Budget& budget) {
  if (const auto* bytes = std::get_if<TotalBytes>(&budget)) return bytes->value;
  const double bits = std::get<BitsPerWeight>(budget).value;
  if (!(bits > 0 && bits <= 1024))
    throw std::invalid_argument(fmt::format("[allocate] {} bits per weight", bits));
  std::int64_t params = 0;
  for (const Item& item : items) params += item.params;
  // 4.1 is a little less in binary: a budget that is meant exactly stays feasible.
  return static_cast<std::int64_t>(
      std::floor(bits * static_cast<double>(params) * (1 + 1e-12)));
}

std::string describe_units(std::int64_t units, BudgetUnit unit,
                           std::span<const Item> items) {
  if (unit == BudgetUnit::kBytes) return fmt::format("{} bytes", units);
  std::int64_t params = 0;
  for (const Item& item : items) params += item.params;
  // Rounded up, so that what the message offers is accepted.
  const double bits = static_cast<double>(units) / static_cast<double>(params);
  return fmt::format("{:.4f} bits per weight", std::ceil(bits * 1e4) / 1e4);
}

/// One upgrade along an item's hull.
struct HullStep {
  std::size_t item;
  int from, to;  // in the item's frontier
  double slope;  // fall of cost per unit
};

std::vector<HullStep> hull_steps(std::span<const std::vector<Point>> frontiers) {
  std::vector<HullStep> steps;
  for (std::size_t i = 0; i < frontiers.size(); ++i) {
    const std::vector<int> hull = lower_hull(frontiers[i]);
    for (std::size_t h = 1; h < hull.size(); ++h) {
      const Point &a = frontiers[i][hull[h - 1]], &b = frontiers[i][hull[h]];
      steps.push_back({i, hull[h - 1], hull[h],
                       (a.cost - b.cost) / static_cast<double>(b.units - a.units)});
    }
  }
  std::ranges::stable_sort(
      steps, [](const HullStep& a, const HullStep& b) { return a.slope > b.slope; });
  return steps;
}

/// The best single upgrade that fits, again and again.
void fill(std::span<const std::vector<Point>> frontiers, std::vector<int>& at,
          std::int64_t slack) {
  for (;;) {
    double best_fall = 0;
    std::size_t best_item = 0;
    int best = -1;
    for (std::size_t i = 0; i < frontiers.size(); ++i) {
      const Point& now = frontiers[i][at[i]];
      for (int p = at[i] + 1; p < static_cast<int>(frontiers[i].size()); ++p) {
        const Point& then = frontiers[i][p];
        if (then.units - now.units > slack) break;
        if (now.cost - then.cost <= best_fall) continue;
        best_fall = now.cost - then.cost;
        best_item = i;
        best = p;
      }
    }
    if (best < 0) return;
    slack -=
        frontiers[best_item][best].units - frontiers[best_item][at[best_item]].units;
    at[best_item] = best;
  }
}

std::int64_t units_of(std::span<const std::vector<Point>> frontiers,
                      const std::vector<int>& at) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < at.size(); ++i) sum += frontiers[i][at[i]].units;
  return sum;
}

double cost_of(std::span<const std::vector<Point>> frontiers,
               const std::vector<int>& at) {
  double sum = 0;
  for (std::size_t i = 0; i < at.size(); ++i) sum += frontiers[i][at[i]].cost;
  return sum;
}

}  // namespace

BudgetUnit unit_of(const Budget& budget) {
  return std::holds_alternative<TotalBytes>(budget) ? BudgetUnit::kBytes
                                                    : BudgetUnit::kBits;
}

int bits_of(const Spec& spec) {
  return std::visit([](const auto& s) { return s.bits; }, spec);
}

std::int64_t units(const Item& item, const Choice& choice, BudgetUnit unit) {
  return unit == BudgetUnit::kBytes ? choice.bytes : bits_of(choice.spec) * item.params;
}

Allocation allocate(std::span<const Item> items, const Budget& budget) {
  check(items);
  Allocation result;
  result.unit = unit_of(budget);
  result.limit = limit_in_units(items, budget);
  std::vector<std::vector<Point>> frontiers;
  for (const Item& item : items) frontiers.push_back(frontier(item, result.unit));

  std::vector<int> at(items.size(), 0);
  std::int64_t used = units_of(frontiers, at);
  if (used > result.limit)
    throw std::invalid_argument(fmt::format(
        "[allocate] a budget of {} cannot be met: the smallest possible is {}",
        describe_units(result.limit, result.unit, items),
        describe_units(used, result.unit, items)));

  // Until a step does not fit, this is the optimum of the linear relaxation; that step
  // taken in part gives the bound.
  double bound = cost_of(frontiers, at);
  bool whole = true;
  for (const HullStep& step : hull_steps(frontiers)) {
    const std::vector<Point>& points = frontiers[step.item];
    const std::int64_t extra = points[step.to].units - points[step.from].units;
    const bool fits = at[step.item] == step.from && used + extra <= result.limit;
    if (whole) {
      const auto taken = static_cast<double>(fits ? extra : result.limit - used);
      bound -= step.slope * taken;
      whole = fits;
    }
    if (!fits) continue;
    at[step.item] = step.to;
    used += extra;
  }
  fill(frontiers, at, result.limit - used);

  const double greedy = cost_of(frontiers, at);
  if (greedy - bound > kGap * std::abs(greedy)) {
    const ExactResult exact =
        improve_allocation(frontiers, result.limit, at, kGap / 2 * std::abs(greedy));
    at = exact.at;
    fill(frontiers, at, result.limit - units_of(frontiers, at));
    bound = std::max(bound, exact.lower_bound);
  }

  result.used = units_of(frontiers, at);
  result.cost = cost_of(frontiers, at);
  result.lower_bound = std::min(bound, result.cost);
  for (std::size_t i = 0; i < items.size(); ++i)
    result.choices.push_back(frontiers[i][at[i]].choice);
  return result;
}

TiedItems tie(std::span<const Item> items,
              std::span<const std::vector<std::size_t>> groups) {
  constexpr std::size_t kAlone = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> group_of(items.size(), kAlone);
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (std::size_t member : groups[g]) {
      if (member >= items.size() || group_of[member] != kAlone)
        throw std::invalid_argument(
            fmt::format("[tie] item {} of {} is out of range or in two groups", member,
                        items.size()));
      group_of[member] = g;
    }
  TiedItems tied;
  std::vector<bool> done(groups.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::size_t g = group_of[i];
    if (g != kAlone && done[g]) continue;
    std::vector<std::size_t> members = {i};
    if (g != kAlone) {
      done[g] = true;
      members = groups[g];
      std::ranges::sort(members);
    }
    Item merged{items[i].name, 0, {}, 1};
    for (const Choice& first : items[i].choices) {
      Choice sum{first.spec, 0, 0};
      bool common = true;
      for (std::size_t member : members) {
        const auto& choices = items[member].choices;
        const auto same = std::ranges::find(choices, first.spec, &Choice::spec);
        common = common && same != choices.end();
        if (!common) break;
        sum.bytes += same->bytes;
        sum.cost += items[member].weight * same->cost;
      }
      if (common) merged.choices.push_back(sum);
    }
    for (std::size_t member : members) merged.params += items[member].params;
    if (merged.choices.empty())
      throw std::invalid_argument(
          fmt::format("[tie] the {} items with {} have no format in common",
                      members.size(), items[i].name));
    tied.items.push_back(std::move(merged));
    tied.members.push_back(std::move(members));
  }
  return tied;
}

}  // namespace optiq::sensitivity
