// How a model's layers keep their keys and values.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/kernels/kv_page/kv_format.h"

namespace optiq::cache {

/// The formats of one layer.
struct LayerFormats {
  KvFormat k;
  KvFormat v;

  friend bool operator==(const LayerFormats&, const LayerFormats&) = default;
};

/// The formats of one layer, and who says so.
struct LayerEntry {
  int layer_idx = 0;  // counted in model layers
  LayerFormats formats;
  std::string source;  // for messages: "kv_config.json: entry 3"; empty: the caller
};

/// What is done to the channels of one layer before they are coded. Queries and sums
/// are changed so that a float cache answers the same. Empty: nothing.
///
/// Shapes    [n_kv_heads * head_dim]
struct ChannelTransform {
  std::vector<float> k_mean;   // taken off keys
  std::vector<float> k_scale;  // keys are multiplied by it then
  std::vector<float> v_scale;  // and values by this

  friend bool operator==(const ChannelTransform&, const ChannelTransform&) = default;
};
using KvChannels = std::map<int, ChannelTransform>;  // by layer

struct CacheOptions {
  FloatType float_type = FloatType::kF16;  // of whatever is not quantized
  std::optional<LayerFormats> formats;     // of every attention layer; none: float
  std::vector<LayerEntry> layers;          // of single layers, before `formats`
  int quantized_start = 0;  // this many first tokens stay float, rounded up to a
                            // page
  std::uint64_t seed = 0;   // of the rotations
  KvChannels channels;
  std::uint64_t budget_bytes = 0;  // 0: what memory is available
};

}  // namespace optiq::cache
