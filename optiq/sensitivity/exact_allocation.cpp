// Items are added one after the other. A partial allocation is dropped if another one
// uses no more units and costs no more, or if even the relaxed optimum of the items
// still to come cannot bring it below the best known cost less the tolerance.
#include "optiq/sensitivity/exact_allocation.h"

#include <algorithm>
#include <limits>

namespace optiq::sensitivity {
namespace {

constexpr std::size_t kMaxStates = 1 << 21;  // in all

struct State {
  std::int64_t units;
  double cost;
  std::int32_t parent;  // index into the previous layer
  std::int32_t point;   // of the item added last
};

/// The relaxed optimum of items [k, n) as a function of the units left: a base, then
/// steps by falling slope, as running sums.
struct Relaxation {
  std::int64_t base_units = 0;
  double base_cost = 0;
  std::vector<std::int64_t> units;  // after each step, above the base
  std::vector<double> cost;         // after each step
  std::vector<double> slope;

  double at(std::int64_t left) const {
    left -= base_units;
    const auto step = std::ranges::upper_bound(units, left) - units.begin();
    const std::int64_t before = step == 0 ? 0 : units[step - 1];
    const double cost_before = step == 0 ? base_cost : cost[step - 1];
    if (step == static_cast<std::ptrdiff_t>(units.size())) return cost_before;
    return cost_before - slope[step] * static_cast<double>(left - before);
  }
};

struct Step {
  std::int64_t units;
  double fall;
  double slope;
};

/// Relaxations of all suffixes: steps are inserted in order of slope.
std::vector<Relaxation> relaxations(std::span<const std::vector<Point>> frontiers) {
  std::vector<Relaxation> result(frontiers.size() + 1);
  std::vector<Step> steps;
  for (std::size_t k = frontiers.size(); k-- > 0;) {
    const std::vector<Point>& points = frontiers[k];
    const std::vector<int> hull = lower_hull(points);
    for (std::size_t h = 1; h < hull.size(); ++h) {
      const Point &a = points[hull[h - 1]], &b = points[hull[h]];
      steps.push_back({b.units - a.units, a.cost - b.cost,
                       (a.cost - b.cost) / static_cast<double>(b.units - a.units)});
    }
    std::ranges::stable_sort(
        steps, [](const Step& a, const Step& b) { return a.slope > b.slope; });
    Relaxation& r = result[k];
    r.base_units = result[k + 1].base_units + points[0].units;
    r.base_cost = result[k + 1].base_cost + points[0].cost;
    std::int64_t units = 0;
    double cost = r.base_cost;
    for (const Step& step : steps) {
      r.units.push_back(units += step.units);
      r.cost.push_back(cost -= step.fall);
      r.slope.push_back(step.slope);
    }
  }
  return result;
}

}  // namespace

ExactResult improve_allocation(std::span<const std::vector<Point>> frontiers,
                               std::int64_t limit, const std::vector<int>& start,
                               double tolerance) {
  double best = 0;
  for (std::size_t i = 0; i < start.size(); ++i) best += frontiers[i][start[i]].cost;
  const std::vector<Relaxation> rest = relaxations(frontiers);
  std::vector<std::vector<State>> layers = {{{0, 0.0, -1, -1}}};
  std::size_t n_states = 0;
  for (std::size_t k = 0; k < frontiers.size(); ++k) {
    std::vector<State> next;
    for (std::size_t s = 0; s < layers[k].size(); ++s)
      for (std::size_t p = 0; p < frontiers[k].size(); ++p) {
        const Point& point = frontiers[k][p];
        const State state{layers[k][s].units + point.units,
                          layers[k][s].cost + point.cost, static_cast<std::int32_t>(s),
                          static_cast<std::int32_t>(p)};
        const std::int64_t left = limit - state.units;
        if (left < rest[k + 1].base_units) break;
        if (state.cost + rest[k + 1].at(left) < best - tolerance) next.push_back(state);
      }
    std::ranges::stable_sort(next, [](const State& a, const State& b) {
      return a.units != b.units ? a.units < b.units : a.cost < b.cost;
    });
    std::vector<State> kept;
    for (const State& state : next)
      if (kept.empty() || state.cost < kept.back().cost) kept.push_back(state);
    if (kept.empty()) return {start, best - tolerance};
    n_states += kept.size();
    if (n_states > kMaxStates) return {start, -std::numeric_limits<double>::infinity()};
    layers.push_back(std::move(kept));
  }
  // Undominated states fall in cost as they grow in units: the last is the best.
  ExactResult result{start, layers.back().back().cost};
  std::size_t s = layers.back().size() - 1;
  for (std::size_t k = frontiers.size(); k-- > 0;) {
    const State& state = layers[k + 1][s];
    result.at[k] = state.point;
    s = static_cast<std::size_t>(state.parent);
  }
  return result;
}

}  // namespace optiq::sensitivity
