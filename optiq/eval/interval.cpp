#include "optiq/eval/interval.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "optiq/eval/tasks/random.h"

namespace optiq::eval {
namespace {

double mean(std::span<const Observation> observations) {
  Observation all{0, 0};
  for (const Observation& o : observations) {
    all.sum += o.sum;
    all.weight += o.weight;
  }
  return all.weight > 0 ? all.sum / all.weight : 0;
}

}  // namespace

Interval wilson_interval(std::int64_t correct, std::int64_t n) {
  if (n <= 0) return {};
  constexpr double z = 1.959963984540054;
  const double count = static_cast<double>(n);
  const double p = static_cast<double>(correct) / count;
  const double centre = p + z * z / (2 * count);
  const double half = z * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count));
  const double scale = 1 + z * z / count;
  return {std::max(0.0, (centre - half) / scale),
          std::min(1.0, (centre + half) / scale)};
}

Estimate bootstrap(std::span<const Observation> observations) {
  constexpr std::size_t kResamples = 2000;
  const double all = mean(observations);
  if (observations.size() < 2) return {all, {all, all}};
  Random random(0);
  std::vector<double> means;
  std::vector<Observation> drawn(observations.size());
  for (std::size_t i = 0; i < kResamples; ++i) {
    for (Observation& o : drawn) o = random.pick(observations);
    means.push_back(mean(drawn));
  }
  std::ranges::sort(means);
  return {all, {means[kResamples / 40], means[kResamples - 1 - kResamples / 40]}};
}

}  // namespace optiq::eval
