#include "optiq/sensitivity/frontier.h"

#include <algorithm>

namespace optiq::sensitivity {

std::vector<Point> frontier(const Item& item, BudgetUnit unit) {
  std::vector<Point> points;
  for (int c = 0; c < static_cast<int>(item.choices.size()); ++c)
    points.push_back(
        {units(item, item.choices[c], unit), item.weight * item.choices[c].cost, c});
  std::ranges::stable_sort(points, [](const Point& a, const Point& b) {
    return a.units != b.units ? a.units < b.units : a.cost < b.cost;
  });
  std::vector<Point> useful;
  for (const Point& point : points)
    if (useful.empty() || point.cost < useful.back().cost) useful.push_back(point);
  return useful;
}

std::vector<int> lower_hull(std::span<const Point> points) {
  const auto slope = [&](int a, int b) {
    return (points[a].cost - points[b].cost) /
           static_cast<double>(points[b].units - points[a].units);
  };
  std::vector<int> hull;
  for (int p = 0; p < static_cast<int>(points.size()); ++p) {
    while (hull.size() >= 2 &&
           slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), p))
      hull.pop_back();
    hull.push_back(p);
  }
  return hull;
}

}  // namespace optiq::sensitivity
