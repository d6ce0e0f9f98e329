// What tests of adapters share: adapters with random matrices.
#pragma once
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/models/model.h"

namespace optiq::adapters {

/// Random matrices of size 1 / sqrt(inputs) at every linear module of the layers, some
/// ranks above others; `bf16` as many adapters are stored.
inline models::AdapterPtr random_adapter(models::Model& model, unsigned seed,
                                         int rank = 4, bool bf16 = false,
                                         bool gains = false) {
  std::mt19937 random(seed);
  const auto matrix = [&](int rows, int columns, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(static_cast<std::size_t>(rows) *
                              static_cast<std::size_t>(columns));
    for (float& value : values) value = normal(random);
    const mlx::core::array a(values.data(), {rows, columns});
    return bf16 ? mlx::core::astype(a, mlx::core::bfloat16) : a;
  };
  auto adapter = std::make_shared<models::Adapter>();
  adapter->identity = "random " + std::to_string(seed);
  for (const models::LinearModule* module : model.linears()) {
    if (module->layer < 0 || module->layer >= model.n_layers()) continue;
    const int K = module->weight.input_dim(), N = module->weight.output_dim();
    const int r = rank + static_cast<int>(adapter->modules.size() % 3);
    kernels::LowRank factors{matrix(r, K, 1 / std::sqrt(static_cast<float>(K))),
                             matrix(r, N, 0.3f), 0.5f};
    if (gains)
      factors.gain = mlx::core::reshape(
          mlx::core::astype(matrix(1, N, 0.1f), mlx::core::float32) + 1.0f, {N});
    mlx::core::eval(factors.a, factors.b);
    if (factors.gain) mlx::core::eval(*factors.gain);
    adapter->modules.emplace(module->name, std::move(factors));
  }
  return adapter;
}

}  // namespace optiq::adapters
