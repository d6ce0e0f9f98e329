#include "optiq/cache/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/kv_page/kv_transform.h"

namespace optiq::cache {
namespace {

[[noreturn]] void refuse(const LayerEntry& entry, const std::string& what) {
  if (entry.source.empty()) throw std::invalid_argument("key-value cache: " + what);
  throw CheckpointError(fmt::format("{}: {}", entry.source, what));
}

// The entries by layer, each checked to name an attention layer.
std::map<int, LayerFormats> entries_of(const std::vector<LayerShape>& shapes,
                                       const std::vector<LayerEntry>& entries) {
  std::map<int, LayerFormats> formats;
  for (const LayerEntry& entry : entries) {
    const auto n = static_cast<int>(shapes.size());
    if (entry.layer_idx < 0 || entry.layer_idx >= n)
      refuse(entry, fmt::format("layer_idx: expected a layer from 0 to {}, found {}",
                                n - 1, entry.layer_idx));
    if (shapes[static_cast<std::size_t>(entry.layer_idx)].n_kv_heads == 0)
      refuse(entry, fmt::format("layer_idx: expected an attention layer, found {}, "
                                "which has no keys and values",
                                entry.layer_idx));
    if (!formats.emplace(entry.layer_idx, entry.formats).second)
      refuse(entry, fmt::format("expected each layer_idx once, found {} again",
                                entry.layer_idx));
  }
  return formats;
}

std::int64_t state_bytes(const LayerShape& s) {
  if (s.conv_kernel == 0) return 0;
  return 4 * (std::int64_t{s.conv_kernel - 1} * s.conv_channels +
              std::int64_t{s.n_value_heads} * s.key_dim * s.value_dim);
}

// K and V of a layer turn by different signs, and so does each layer.
std::vector<float> signs_of(const KvFormat& format, int head_dim, std::uint64_t seed,
                            int layer, int side) {
  if (!is_rotated(format)) return {};
  return rotation_signs(head_dim, seed + 2 * static_cast<std::uint64_t>(layer) +
                                      static_cast<std::uint64_t>(side));
}

// Keeps projections of residuals apart from the rotations of any layer.
constexpr std::uint64_t kProjectionSeed = std::uint64_t{1} << 63;

const ChannelTransform& checked(const ChannelTransform& channels,
                                const LayerShape& shape, int layer) {
  const auto n = static_cast<std::size_t>(shape.n_kv_heads) *
                 static_cast<std::size_t>(shape.head_dim);
  for (const auto* values : {&channels.k_mean, &channels.k_scale, &channels.v_scale})
    if (!values->empty() && values->size() != n)
      throw CheckpointError(
          fmt::format("channels of keys and values: layer {}: expected {} values, "
                      "found {}",
                      layer, n, values->size()));
  return channels;
}

std::vector<float> inverses(std::vector<float> values) {
  for (float& value : values) value = 1 / value;
  return values;
}

const PageMemory& page_memory() {
  const PageMemory* devices = kernels::runs_on_cpu() ? nullptr : cuda_page_memory();
  return devices ? *devices : host_page_memory();
}

}  // namespace

KvCache::KvCache(std::vector<LayerShape> shapes, const CacheOptions& options)
    : memory_(page_memory()), shapes_(std::move(shapes)) {
  const auto entries = entries_of(shapes_, options.layers);
  const KvFormat in_float = kv_float(options.float_type);
  std::int64_t float_bytes = 0, coded_bytes = 0;
  bool coded = false;
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const LayerShape& shape = shapes_[i];
    layers_.emplace_back();
    recurrent_bytes_ += state_bytes(shape);
    if (shape.n_kv_heads == 0) continue;
    const int index = static_cast<int>(i);
    const auto entry = entries.find(index);
    auto layer = std::make_unique<LayerPages>();
    layer->formats = entry != entries.end()
                         ? entry->second
                         : options.formats.value_or(LayerFormats{in_float, in_float});
    const auto& [k, v] = layer->formats;
    layer->float_layout =
        make_kv_layout(shape.n_kv_heads, shape.head_dim, in_float, in_float);
    layer->coded_layout = make_kv_layout(shape.n_kv_heads, shape.head_dim, k, v);
    layer->float_offset = float_bytes;
    layer->coded_offset = coded_bytes;
    float_bytes += layer->float_layout.bytes();
    coded_bytes += layer->coded_layout.bytes();
    layer->k_signs = signs_of(k, shape.head_dim, options.seed, index, 0);
    layer->v_signs = signs_of(v, shape.head_dim, options.seed, index, 1);
    if (const auto found = options.channels.find(index);
        found != options.channels.end()) {
      layer->channels = checked(found->second, shape, index);
      layer->q_scale = inverses(layer->channels.k_scale);
      layer->sum_scale = inverses(layer->channels.v_scale);
    }
    if (k.kind == KvKind::kTurboQjl)
      layer->k_residual_signs =
          rotation_signs(shape.head_dim, kProjectionSeed ^ (options.seed + i));
    layer->transform = {
        beside_pages(layer->k_signs),          beside_pages(layer->v_signs),
        beside_pages(layer->channels.k_mean),  beside_pages(layer->k_residual_signs),
        beside_pages(layer->channels.k_scale), beside_pages(layer->q_scale),
        beside_pages(layer->channels.v_scale), beside_pages(layer->sum_scale)};
    coded = coded || k != in_float || v != in_float;
    layers_.back() = std::move(layer);
  }
  if (coded)
    float_pages_ = static_cast<int>(
        (std::int64_t{options.quantized_start} + kPageTokens - 1) / kPageTokens);
  store_ = std::make_unique<PageStore>(
      std::vector<std::size_t>{static_cast<std::size_t>(float_bytes),
                               static_cast<std::size_t>(coded_bytes)},
      options.budget_bytes > 0 ? options.budget_bytes : memory_.available_bytes(),
      memory_);
}

const float* KvCache::beside_pages(const std::vector<float>& values) {
  if (values.empty()) return nullptr;
  if (!memory_.is_devices()) return values.data();
  const std::size_t bytes = values.size() * sizeof(float);
  std::byte* copy = memory_.allocate(bytes);
  if (copy == nullptr)
    throw ResourceError("key-value cache: the device has no memory for its transforms");
  copies_.emplace_back(
      copy, [bytes, &memory = memory_](std::byte* at) { memory.free(at, bytes); });
  memory_.copy(copy, reinterpret_cast<const std::byte*>(values.data()), bytes);
  return reinterpret_cast<const float*>(copy);
}

std::int64_t KvCache::bytes(std::int64_t tokens) const {
  const auto in_float = std::min(tokens, std::int64_t{float_pages_} * kPageTokens);
  const auto float_page = static_cast<std::int64_t>(store_->page_bytes(0));
  return in_float * (float_page / kPageTokens) +
         (tokens - in_float) * bytes_per_token();
}

}  // namespace optiq::cache
