#include "optiq/convert/kv_sidecars.h"

#include <algorithm>

#include "optiq/cache/kv_channels.h"

namespace optiq::convert {
namespace {

using nlohmann::ordered_json;
using sensitivity::KvPart;

constexpr const char* kConfig = "kv_config.json";
constexpr const char* kSensitivity = "kv_sensitivity.json";
constexpr int kGroupSize = 64;  // where the format has none: what readers take then

void add(ordered_json& sums, const std::vector<sensitivity::KvCost>& costs) {
  for (const auto& cost : costs) {
    const std::string bits = std::to_string(cost.format.bits);
    sums[bits] = (sums.contains(bits) ? sums[bits].get<double>() : 0.0) + cost.kl;
  }
}

}  // namespace

ordered_json kv_config_json(const KvCacheResult& result) {
  ordered_json list = ordered_json::array();
  for (const auto& [layer, formats] : result.plan) {
    const auto& [k, v] = formats;
    list.push_back({{"layer_idx", layer},
                    {"bits", std::max(k.bits, v.bits)},
                    {"group_size", k.group_size > 0 ? k.group_size : kGroupSize},
                    {"k_bits", k.bits},
                    {"v_bits", v.bits},
                    {"format", name(k)}});
  }
  return list;
}

ordered_json kv_sensitivity_json(const KvCacheResult& result) {
  ordered_json list = ordered_json::array();
  for (const auto& part : result.sensitivities) {
    if (list.empty() || list.back()["layer_idx"] != part.layer)
      list.push_back(
          {{"layer_idx", part.layer},
           {"layer_name", result.layer_names[static_cast<std::size_t>(part.layer)]},
           {"sensitivities", ordered_json::object()},
           {"n_kv_heads", part.n_kv_heads},
           {"head_dim", part.head_dim}});
    ordered_json& layer = list.back();
    add(layer["sensitivities"], part.costs);
    if (part.part == KvPart::kKeys) add(layer["k_sensitivities"], part.costs);
    if (part.part == KvPart::kValues) add(layer["v_sensitivities"], part.costs);
  }
  return list;
}

KvCacheOutput::KvCacheOutput(std::filesystem::path directory)
    : directory_(std::move(directory)) {
  std::error_code ignored;
  if (!std::filesystem::exists(directory_, ignored)) {
    fresh_.emplace(directory_, kConfig);
    return;
  }
  for (const char* file : {kConfig, kSensitivity, cache::kKvChannelsFile})
    check_writable(directory_ / file);
}

void KvCacheOutput::write(const KvCacheResult& result,
                          const cache::KvChannels& channels) {
  const std::filesystem::path to = fresh_ ? fresh_->path() : directory_;
  const bool any = std::ranges::any_of(channels, [](const auto& layer) {
    return layer.second != cache::ChannelTransform{};
  });
  if (any)
    cache::save_kv_channels(to / cache::kKvChannelsFile, channels);
  else
    std::filesystem::remove(to / cache::kKvChannelsFile);  // of an earlier run
  write_file_atomic(to / kSensitivity, kv_sensitivity_json(result).dump(1) + "\n");
  write_file_atomic(to / kConfig, kv_config_json(result).dump(1) + "\n");
  if (fresh_) fresh_->commit();
}

}  // namespace optiq::convert
