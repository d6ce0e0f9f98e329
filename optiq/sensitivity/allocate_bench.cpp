// What the set of widths and the solver are worth: summed cost over the lower bound of
// the full set, for 196 tensors of three spreads of sensitivity.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <random>
#include <vector>

#include "optiq/sensitivity/allocate.h"
#include "optiq/sensitivity/frontier.h"
#include "optiq/sensitivity/static_costs.h"

namespace {

using namespace optiq;
using namespace optiq::sensitivity;

std::vector<Item> make_items(const std::vector<int>& widths, double spread, int n,
                             unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const std::int64_t sizes[] = {4 << 20,  1 << 20,  1 << 20, 4 << 20,
                                11 << 20, 11 << 20, 11 << 20};
  std::vector<Item> items;
  for (int i = 0; i < n; ++i) {
    Item item{"x", sizes[i % 7], {}, 1};
    const double sensitivity = std::exp(spread * normal(random));
    for (int bits : widths)
      item.choices.push_back({QuantSpec{QuantMode::kAffine, bits, 64},
                              item.params / 8 * bits + item.params / 16,
                              sensitivity * relative_squared_error(QuantSpec{
                                                QuantMode::kAffine, bits, 64})});
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace

int main() {
  fmt::print("tensors,bits_per_weight,spread,widths,cost_over_bound,ms\n");
  const std::vector<int> full = {2, 3, 4, 5, 6, 8};
  const std::pair<const char*, std::vector<int>> sets[] = {
      {"2 3 4 5 6 8", full}, {"4 5 6 8", {4, 5, 6, 8}}, {"4 8", {4, 8}}};
  for (int n : {7, 28, 196, 420})
    for (double target : {3.5, 4.5, 5.0})
      for (double spread : {0.7, 1.2, 1.8}) {
        const double bound =
            allocate(make_items(full, spread, n, 1), BitsPerWeight{target}).lower_bound;
        for (const auto& [name, widths] : sets) {
          if (target < widths[0]) continue;
          const auto items = make_items(widths, spread, n, 1);
          const auto start = std::chrono::steady_clock::now();
          const Allocation a = allocate(items, BitsPerWeight{target});
          const double ms = std::chrono::duration<double, std::milli>(
                                std::chrono::steady_clock::now() - start)
                                .count();
          fmt::print("{},{},{},{},{:.4f},{:.2f}\n", n, target, spread, name,
                     a.cost / bound, ms);
        }
      }
}
