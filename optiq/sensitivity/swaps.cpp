#include "optiq/sensitivity/swaps.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "optiq/sensitivity/frontier.h"

namespace optiq::sensitivity {
namespace {

constexpr std::size_t kSingles = 3;    // swaps with one item down, per upgrade
constexpr std::size_t kPairPool = 64;  // downgrades considered in pairs

/// A change of one item to another of its useful choices.
struct Move {
  Change change;
  std::int64_t units;  // added
  double cost;         // added
};

struct Moves {
  std::vector<Move> up;
  std::vector<Move> down;  // by cost
};

Moves moves_of(const Allocation& allocation, std::span<const Item> items) {
  Moves moves;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const int now = allocation.choices[i];
    const Choice& choice = items[i].choices[now];
    const std::int64_t now_units = units(items[i], choice, allocation.unit);
    const double now_cost = items[i].weight * choice.cost;
    for (const Point& point : frontier(items[i], allocation.unit)) {
      const Move move{
          {i, now, point.choice}, point.units - now_units, point.cost - now_cost};
      if (move.units > 0 && move.cost < 0) moves.up.push_back(move);
      if (move.units < 0) moves.down.push_back(move);
    }
  }
  std::ranges::stable_sort(moves.down, {}, &Move::cost);
  return moves;
}

Swap make_swap(const Move& up, std::initializer_list<const Move*> downs) {
  Swap swap{{up.change}, -up.cost, up.units};
  for (const Move* down : downs) {
    swap.changes.push_back(down->change);
    swap.predicted_gain -= down->cost;
    swap.extra_units += down->units;
  }
  return swap;
}

void add_swaps(const Move& up, const std::vector<Move>& downs, std::int64_t slack,
               std::vector<Swap>& swaps) {
  std::size_t singles = 0;
  for (const Move& down : downs) {
    if (down.change.item == up.change.item || up.units + down.units > slack) continue;
    swaps.push_back(make_swap(up, {&down}));
    if (++singles == kSingles) break;
  }
  const std::size_t pool = std::min(downs.size(), kPairPool);
  const Move *first = nullptr, *second = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t a = 0; a < pool; ++a)
    for (std::size_t b = a + 1; b < pool; ++b) {
      const Move &x = downs[a], &y = downs[b];
      const bool apart = x.change.item != y.change.item &&
                         x.change.item != up.change.item &&
                         y.change.item != up.change.item;
      // Where one alone makes room, the pair is no new idea.
      const bool needed = up.units + x.units > slack && up.units + y.units > slack;
      if (!apart || !needed || up.units + x.units + y.units > slack ||
          x.cost + y.cost >= least)
        continue;
      least = x.cost + y.cost;
      first = &x;
      second = &y;
    }
  if (first) swaps.push_back(make_swap(up, {first, second}));
}

void check(const Allocation& allocation, std::span<const Item> items) {
  bool belongs = allocation.choices.size() == items.size();
  for (std::size_t i = 0; belongs && i < items.size(); ++i)
    belongs = allocation.choices[i] >= 0 &&
              allocation.choices[i] < static_cast<int>(items[i].choices.size());
  if (!belongs)
    throw std::invalid_argument(fmt::format(
        "[swap_candidates] the allocation of {} items is not one of these {}",
        allocation.choices.size(), items.size()));
}

}  // namespace

std::vector<Swap> swap_candidates(const Allocation& allocation,
                                  std::span<const Item> items, std::size_t n) {
  check(allocation, items);
  const Moves moves = moves_of(allocation, items);
  std::vector<Swap> swaps;
  for (const Move& up : moves.up)
    add_swaps(up, moves.down, allocation.limit - allocation.used, swaps);
  std::ranges::stable_sort(swaps, [](const Swap& a, const Swap& b) {
    return a.predicted_gain > b.predicted_gain;
  });
  if (swaps.size() > n) swaps.resize(n);
  return swaps;
}

Allocation apply(const Allocation& allocation, std::span<const Item> items,
                 const Swap& swap) {
  check(allocation, items);
  Allocation result = allocation;
  for (const Change& change : swap.changes) {
    if (change.item >= items.size() || change.to < 0 ||
        change.to >= static_cast<int>(items[change.item].choices.size()))
      throw std::invalid_argument("[apply] the swap belongs to other items");
    result.choices[change.item] = change.to;
  }
  result.used = 0;
  result.cost = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Choice& choice = items[i].choices[result.choices[i]];
    result.used += units(items[i], choice, result.unit);
    result.cost += items[i].weight * choice.cost;
  }
  return result;
}

}  // namespace optiq::sensitivity
