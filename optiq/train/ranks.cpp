#include "optiq/train/ranks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <stdexcept>

namespace optiq::train {
namespace {

constexpr int kQuantizedAtMost = 8;  // bits; wider weights are floats, not choices

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Ranks before rounding.
std::vector<double> wishes(const std::vector<RankedLayer>& layers,
                           const RankOptions& options) {
  const double base = options.base;
  std::vector<double> ranks(layers.size(), base);
  if (options.scaling == RankScaling::kByBits) {
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers[i].bits <= kQuantizedAtMost) ranks[i] = base * layers[i].bits / 4;
  } else if (options.scaling == RankScaling::kByKl) {
    std::vector<double> known;
    for (const RankedLayer& layer : layers)
      if (layer.kl > 0) known.push_back(layer.kl);
    if (known.empty())
      throw std::invalid_argument(
          "by_kl: expected stored sensitivities (optiq/sensitivity.json) of the model, "
          "found none; `optiq convert` writes them");
    const double middle = median(known);
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers[i].kl > 0)
        ranks[i] = base * std::clamp(layers[i].kl / middle, 0.5, 2.0);
  } else if (options.scaling == RankScaling::kByGrad) {
    for (std::size_t i = 0; i < layers.size(); ++i) ranks[i] = layers[i].score;
    if (*std::ranges::max_element(ranks) <= 0)
      throw std::invalid_argument("by_grad: all gradients are zero");
  }
  return ranks;
}

}  // namespace

const char* name(RankScaling scaling) {
  switch (scaling) {
    case RankScaling::kConstant:
      return "constant";
    case RankScaling::kByBits:
      return "by_bits";
    case RankScaling::kByKl:
      return "by_kl";
    case RankScaling::kByGrad:
      return "by_grad";
  }
  return "";
}

std::vector<int> ranks_within(const std::vector<RankedLayer>& layers,
                              const std::vector<double>& weights, std::int64_t budget,
                              int least, int most) {
  const auto ranks_at = [&](double scale) {
    std::vector<int> ranks;
    for (const double weight : weights)
      ranks.push_back(static_cast<int>(
          std::clamp(std::floor(scale * weight), double(least), double(most))));
    return ranks;
  };
  const auto cost = [&](const std::vector<int>& ranks) {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < layers.size(); ++i)
      sum += layers[i].parameters(ranks[i]);
    return sum;
  };
  // The largest scale that fits, then single steps for those that lack most.
  double low = 0, high = 1;
  while (high < 1e18 && cost(ranks_at(high)) <= budget) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (cost(ranks_at(middle)) <= budget ? low : high) = middle;
  }
  std::vector<int> ranks = ranks_at(low);
  std::vector<std::size_t> order(layers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater{},
                           [&](std::size_t i) { return low * weights[i] - ranks[i]; });
  std::int64_t left = budget - cost(ranks);
  for (const std::size_t i : order)
    if (ranks[i] < most && layers[i].parameters(1) <= left) {
      ++ranks[i];
      left -= layers[i].parameters(1);
    }
  return ranks;
}

std::vector<int> choose_ranks(const std::vector<RankedLayer>& layers,
                              const RankOptions& options) {
  const int least = std::min(2, options.base), most = 4 * options.base;
  std::vector<double> wished = wishes(layers, options);
  if (options.permuted) {
    std::mt19937_64 random(options.seed);
    for (std::size_t i = wished.size(); i > 1; --i)
      std::swap(wished[i - 1], wished[random() % i]);
  }
  if (options.same_budget || options.scaling == RankScaling::kByGrad) {
    std::int64_t budget = 0;
    for (const RankedLayer& layer : layers) budget += layer.parameters(options.base);
    return ranks_within(layers, wished, budget, least, most);
  }
  std::vector<int> ranks;
  for (const double rank : wished)
    ranks.push_back(std::clamp(static_cast<int>(std::ceil(rank - 1e-9)), least, most));
  return ranks;
}

}  // namespace optiq::train
