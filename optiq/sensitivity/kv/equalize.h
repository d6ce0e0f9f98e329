// Channels of keys and values made alike before they are coded, where that helps.
#pragma once
#include <functional>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/models/model.h"
#include "optiq/sensitivity/kv/cache_divergence.h"

namespace optiq::sensitivity {

/// Scales s that make the error of q k smallest where keys s k and queries q / s are
/// used: s = q^(2 / (p + 2)) / k^(p / (p + 2)), for the step of a code growing as the
/// p-norm of its group. p is 2 where a rotation spreads each error over all channels,
/// and larger where the widest channel of a group decides.
///
/// Shapes    q, k: root mean squares [n_kv_heads * head_dim]; empty q: all alike ->
///           the same, geometric mean 1 in each head, within [2^-10, 2^10] of it
std::vector<float> equalizing_scales(const std::vector<float>& q,
                                     const std::vector<float>& k, int head_dim,
                                     double p);

struct EqualizeOptions {
  KvFormat format;            // of the layer that is looked at
  cache::CacheOptions cache;  // of everything else: float32, means

  /// Called before each probe.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// What `options.cache` does to channels, with scales of keys, and of values, added in
/// each layer in which they lower the divergence of that layer's cache alone.
///
/// Requires  a meter at its start; leaves it at the last layer
/// Throws    Interrupted; std::invalid_argument for formats that do not fit the layers
/// Cost      for L attention layers about 3 L / 2 forward calls over the sequences
/// Source    SmoothQuant (2211.10438, section 4) for weights and activations; the
///           exponents from the norms above
cache::KvChannels equalize(const models::Model& model, CacheMeter& meter,
                           const EqualizeOptions& options);

}  // namespace optiq::sensitivity
