#include "optiq/sensitivity/kv/equalize.h"

#include <algorithm>
#include <cmath>

#include "optiq/sensitivity/kv/kv_sensitivity.h"

namespace optiq::sensitivity {
namespace {

constexpr double kRotatedNorm = 2;
constexpr double kGroupedNorm = 6;
constexpr double kLargest = 1024;
constexpr double kTiny = 1e-12;  // of a channel that is always zero

}  // namespace

std::vector<float> equalizing_scales(const std::vector<float>& q,
                                     const std::vector<float>& k, int head_dim,
                                     double p) {
  const auto dim = static_cast<std::size_t>(head_dim);
  std::vector<float> scales(k.size());
  std::vector<double> logs(dim);
  for (std::size_t head = 0; head < k.size(); head += dim) {
    double mean = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      const double of_q =
          q.empty() ? 0 : std::log(std::max<double>(q[head + i], kTiny));
      const double of_k = std::log(std::max<double>(k[head + i], kTiny));
      logs[i] = (2 * of_q - p * of_k) / (p + 2);
      mean += logs[i] / static_cast<double>(dim);
    }
    for (std::size_t i = 0; i < dim; ++i)
      scales[head + i] = static_cast<float>(std::exp(
          std::clamp(logs[i] - mean, -std::log(kLargest), std::log(kLargest))));
  }
  return scales;
}

cache::KvChannels equalize(const models::Model& model, CacheMeter& meter,
                           const EqualizeOptions& options) {
  const auto& shapes = model.layer_shapes();
  const double p = is_rotated(options.format) ? kRotatedNorm : kGroupedNorm;
  const auto n_layers =
      std::ranges::count_if(shapes, [](const auto& s) { return s.n_kv_heads > 0; });
  cache::CacheOptions cache = options.cache;
  std::int64_t done = 0;
  const auto divergence = [&](int layer) {
    if (options.progress) options.progress(done++, 3 * n_layers);
    return meter
        .measure(with_plan(
            cache, {{layer, {options.format, format_of_values(options.format)}}}))
        .mean;
  };
  for (int layer = 0; layer < model.n_layers(); ++layer) {
    const cache::LayerShape& shape = shapes[static_cast<std::size_t>(layer)];
    if (shape.n_kv_heads == 0) continue;
    meter.advance_to(layer);
    const ChannelStatistics& channels = meter.channels().at(layer);
    cache::ChannelTransform& transform = cache.channels[layer];
    const std::vector<float> k =
        transform.k_mean.empty() ? channels.k : channels.k_centred;
    double best = divergence(layer);
    const auto keep_if_better = [&](std::vector<float>& scales,
                                    std::vector<float> contender) {
      scales = std::move(contender);
      const double kl = divergence(layer);
      if (kl < best)
        best = kl;
      else
        scales.clear();
    };
    keep_if_better(transform.k_scale,
                   equalizing_scales(channels.q, k, shape.head_dim, p));
    keep_if_better(transform.v_scale,
                   equalizing_scales({}, channels.v, shape.head_dim, p));
  }
  if (options.progress) options.progress(done, 3 * n_layers);
  return cache.channels;
}

}  // namespace optiq::sensitivity
