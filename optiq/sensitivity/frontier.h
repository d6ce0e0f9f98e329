// An item's useful choices, and their lower convex hull.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/sensitivity/allocate.h"

namespace optiq::sensitivity {

/// A choice as the solver sees it: weighted cost, budget units.
struct Point {
  std::int64_t units;
  double cost;
  int choice;
};

/// The choices that no cheaper-or-equal one beats, by rising units and falling cost.
std::vector<Point> frontier(const Item& item, BudgetUnit unit);

/// The corners of the lower convex hull of a frontier, as indices into it: from one to
/// the next the fall of cost per unit shrinks.
std::vector<int> lower_hull(std::span<const Point> frontier);

}  // namespace optiq::sensitivity
