#include "optiq/cache/kv_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/fields.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::cache {
namespace {

using checkpoint::Fields;

constexpr int kMostLayers = 65536;
constexpr int kFloatBits = 16;  // K or V that stays float

std::string format_names() {
  std::string names;
  for (const KvFormatInfo& row : kv_formats())
    names += fmt::format("{}{}", names.empty() ? "one of " : ", ", row.name);
  return names;
}

// What one object of the list says; `where` is "entry 3".
LayerEntry entry_of(const nlohmann::json& json, const std::filesystem::path& file,
                    const std::string& where) {
  const Fields entry(json, file, where + ": ");
  const std::string source = fmt::format("{}: {}", file.string(), where);
  const std::string name = entry.text_or("format", "affine");
  if (std::ranges::find(kv_formats(), name, &KvFormatInfo::name) == kv_formats().end())
    entry.fail("format", format_names());
  const auto group_size =
      static_cast<int>(entry.integer_or("group_size", 64, 1, 1 << 20));
  const std::int64_t bits = entry.integer("bits", 1, 32);
  const auto format = [&](const char* key) {
    const auto own = static_cast<int>(entry.integer_or(key, bits, 1, 32));
    if (own == kFloatBits) return kv_float(FloatType::kF16);
    try {
      return kv_format(name, own, group_size);
    } catch (const std::invalid_argument& error) {
      throw CheckpointError(fmt::format("{}: {}", source, error.what()));
    }
  };
  return {static_cast<int>(entry.integer("layer_idx", 0, kMostLayers)),
          {format("k_bits"), format_of_values(format("v_bits"))},
          source};
}

}  // namespace

std::vector<LayerEntry> parse_kv_config(std::string_view text,
                                        const std::filesystem::path& file) {
  std::vector<LayerEntry> layers;
  std::set<int> seen;
  for (const nlohmann::json& json : checkpoint::parse_json_list(text, file)) {
    const std::string where = fmt::format("entry {}", layers.size());
    if (!json.is_object())
      throw CheckpointError(fmt::format("{}: {}: expected an object, found {}",
                                        file.string(), where, json.type_name()));
    layers.push_back(entry_of(json, file, where));
    if (!seen.insert(layers.back().layer_idx).second)
      throw CheckpointError(
          fmt::format("{}: expected each layer_idx once, found {} again",
                      layers.back().source, layers.back().layer_idx));
  }
  return layers;
}

std::vector<LayerEntry> load_kv_config(const std::filesystem::path& file) {
  constexpr std::size_t kLimitBytes = std::size_t{16} << 20;
  return parse_kv_config(read_file(file, kLimitBytes), file);
}

}  // namespace optiq::cache
