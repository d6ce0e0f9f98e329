// How much the model's answers change when one layer's cache alone is quantized, and
// which bits that buys.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/sensitivity/allocate.h"
#include "optiq/sensitivity/kv/cache_divergence.h"

namespace optiq::sensitivity {

/// What of a layer's cache is given one format.
enum class KvPart : std::uint8_t { kKeysAndValues, kKeys, kValues };

/// One part at one format.
struct KvCost {
  KvFormat format;
  std::int64_t page_bytes = 0;  // of kPageTokens tokens, scales and biases counted
  double kl = 0;        // nats per token: KL(float cache || this part alone in format)
  double kl_error = 0;  // standard error over the sequences
};

struct KvSensitivity {
  int layer = 0;
  KvPart part = KvPart::kKeysAndValues;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<KvCost> costs;  // by rising bits

  /// Values of a token.
  std::int64_t values() const {
    return std::int64_t{n_kv_heads} * head_dim *
           (part == KvPart::kKeysAndValues ? 2 : 1);
  }
};

/// The formats of each attention layer.
using KvPlan = std::map<int, cache::LayerFormats>;

/// One format for all.
KvPlan uniform_kv_plan(const std::vector<cache::LayerShape>& shapes,
                       const KvFormat& format);

/// `base` with the plan's formats.
cache::CacheOptions with_plan(cache::CacheOptions base, const KvPlan& plan);

/// Bytes of a page of all layers.
std::int64_t page_bytes(const std::vector<cache::LayerShape>& shapes,
                        const KvPlan& plan);

/// Mean bits of all cached values, codes only.
double average_bits(const std::vector<cache::LayerShape>& shapes, const KvPlan& plan);

struct KvMeasureOptions {
  std::vector<KvFormat> formats;  // by rising bits
  bool separate_kv = false;       // keys and values apart
  cache::CacheOptions cache;      // of everything else: float32, seed, means

  /// Called before each probe.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// Probes every part of every attention layer at every format, in one walk.
///
/// Requires  a meter at its start
/// Throws    Interrupted; std::invalid_argument for formats that do not fit the layers
/// Cost      for L attention layers, P parts and F formats about L P F / 2 forward
///           calls over the meter's sequences
std::vector<KvSensitivity> measure_kv(const models::Model& model, CacheMeter& meter,
                                      const KvMeasureOptions& options);

/// The measured parts as items whose costs fall with every bit: where noise says that
/// a wider format costs more, it is taken to cost a little less.
std::vector<Item> kv_items(const std::vector<KvSensitivity>& sensitivities);

/// What an allocation of these items means.
KvPlan plan_of(const std::vector<KvSensitivity>& sensitivities,
               const Allocation& allocation);

/// Swaps within the budget that lower the joint divergence, each measured, until none
/// of the `n_swaps` most promising does.
///
/// Returns   the plan, and its divergence; never worse than the allocation's own
/// Cost      at most 3 n_swaps forward calls over the meter's sequences
struct JointPlan {
  KvPlan plan;
  double kl = 0;
};
JointPlan refine_kv(const std::vector<KvSensitivity>& sensitivities,
                    Allocation allocation, CacheMeter& meter,
                    const cache::CacheOptions& base, std::size_t n_swaps);

}  // namespace optiq::sensitivity
