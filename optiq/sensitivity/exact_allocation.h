// Closing the gap that greedy allocation leaves when there are few items.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/sensitivity/frontier.h"

namespace optiq::sensitivity {

struct ExactResult {
  std::vector<int> at;  // for each item, an index into its frontier
  double lower_bound;   // of the optimum; minus infinity if the work ran out
};

/// Improves an allocation to within `tolerance` of the optimum, or as far as a fixed
/// amount of work goes.
///
/// Requires  `start` within `limit` units.
/// Cost      at most some million partial allocations.
/// Source    dynamic programming over undominated partial sums, cut by the bound of the
///           linear relaxation (Dyer, Kayal and Walker 1984; Pisinger 1995).
ExactResult improve_allocation(std::span<const std::vector<Point>> frontiers,
                               std::int64_t limit, const std::vector<int>& start,
                               double tolerance);

}  // namespace optiq::sensitivity
