#include "optiq/train/lora_parameters.h"

#include <cmath>
#include <random>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/adapters/dora.h"

namespace optiq::train {
namespace {

mx::array uniform(int rows, int columns, float bound, std::mt19937_64& random) {
  std::uniform_real_distribution<float> draw(-bound, bound);
  std::vector<float> values(static_cast<std::size_t>(rows) *
                            static_cast<std::size_t>(columns));
  for (float& value : values) value = draw(random);
  return mx::array(values.data(), {rows, columns});
}

}  // namespace

LoraParameters::LoraParameters(std::vector<LoraModule> modules,
                               const LoraOptions& options)
    : modules_(std::move(modules)), options_(options) {
  std::mt19937_64 random(options.seed);
  for (const LoraModule& m : modules_) {
    const auto& w = m.module->weight;
    const int K = w.input_dim(), N = w.output_dim();
    values_.push_back(uniform(m.rank, K, 1 / std::sqrt(static_cast<float>(K)), random));
    values_.push_back(mx::zeros({m.rank, N}));
    if (!options.dora) continue;
    squares_.push_back(adapters::squared_row_norms(w));
    values_.push_back(mx::sqrt(squares_.back()));
  }
  mx::eval(values_);
}

std::int64_t LoraParameters::count() const {
  std::int64_t n = 0;
  for (const mx::array& value : values_) n += static_cast<std::int64_t>(value.size());
  return n;
}

std::vector<std::string> LoraParameters::names() const {
  std::vector<std::string> names;
  for (const LoraModule& m : modules_) {
    names.push_back(m.module->name + ".a");
    names.push_back(m.module->name + ".b");
    if (options_.dora) names.push_back(m.module->name + ".m");
  }
  return names;
}

models::AdapterPtr LoraParameters::adapter(
    const std::vector<mx::array>& values,
    std::optional<std::uint64_t> dropout_step) const {
  auto adapter = std::make_shared<models::Adapter>();
  const std::size_t stride = options_.dora ? 3 : 2;
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    kernels::LowRank factors{values[i * stride], values[i * stride + 1],
                             modules_[i].scale};
    if (options_.dora)
      // The lengths are constants to the gradient (DoRA, section 4.3).
      factors.gain = values[i * stride + 2] /
                     mx::stop_gradient(adapters::adapted_row_norms(
                         modules_[i].module->weight, factors, squares_[i]));
    if (options_.dropout > 0 && dropout_step) {
      const std::uint64_t key = options_.seed * 1'000'003 + *dropout_step * 10'007 + i;
      factors.input = [key, keep = 1 - options_.dropout](const mx::array& x) {
        const mx::array mask =
            mx::random::bernoulli(mx::array(keep), x.shape(), mx::random::key(key));
        return x * mx::astype(mask, mx::float32) * (1 / keep);
      };
    }
    adapter->modules.emplace(modules_[i].module->name, std::move(factors));
  }
  return adapter;
}

std::map<std::string, mx::array> LoraParameters::magnitudes() const {
  std::map<std::string, mx::array> all;
  if (options_.dora)
    for (std::size_t i = 0; i < modules_.size(); ++i)
      all.emplace(modules_[i].module->name, values_[i * 3 + 2]);
  return all;
}

}  // namespace optiq::train
