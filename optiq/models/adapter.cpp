#include "optiq/models/adapter.h"

#include <fmt/format.h>

#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace optiq::models {

Adapter stacked(const std::vector<AdapterPtr>& adapters) {
  Adapter sum;
  for (const auto& adapter : adapters) {
    sum.identity += (sum.identity.empty() ? "" : "+") + adapter->identity;
    for (const auto& [name, factors] : adapter->modules) {
      if (factors.gain && adapters.size() > 1)
        throw std::invalid_argument(fmt::format(
            "{}: a DoRA adapter cannot be stacked with others, its gain is not a sum",
            name));
      // The scales differ, so each goes into its own matrix.
      const mx::array a = mx::astype(factors.a, mx::float32);
      const mx::array b = mx::astype(factors.b, mx::float32) * factors.scale;
      const auto [at, is_new] =
          sum.modules.try_emplace(name, kernels::LowRank{a, b, 1.0f, factors.gain});
      if (is_new) continue;
      at->second.a = mx::concatenate({at->second.a, a}, 0);
      at->second.b = mx::concatenate({at->second.b, b}, 0);
    }
  }
  for (auto& [name, factors] : sum.modules) mx::eval(factors.a, factors.b);
  return sum;
}

}  // namespace optiq::models
