#include "cache_flags.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <vector>

#include "command.h"
#include "optiq/cache/kv_channels.h"
#include "optiq/cache/kv_config.h"

namespace optiq::app {
namespace {

// The formats that --kv-format names: float is what the flags' absence means.
std::vector<std::string> coded_formats() {
  std::vector<std::string> names;
  for (const KvFormatInfo& format : kv_formats())
    if (format.kind != KvKind::kFloat) names.emplace_back(format.name);
  return names;
}

KvFormat format_of(const CacheFlags& flags) {
  if (flags.bits == 16) return kv_float(FloatType::kF16);
  try {
    return kv_format(flags.format, flags.bits, flags.group_size);
  } catch (const std::invalid_argument& error) {
    throw UsageError(std::string("--kv-bits: ") + error.what());
  }
}

}  // namespace

void add_cache_flags(CLI::App& app, CacheFlags& flags) {
  auto* config =
      app.add_option("--kv-config", flags.config,
                     "How many bits each layer's keys and values have: kv_config.json")
          ->type_name("FILE");
  auto* bits = app.add_option("--kv-bits", flags.bits,
                              "Keep all keys and values in N bits; 16 is float16 "
                              "(default: float)")
                   ->check(CLI::Range(1, 16).description(""))
                   ->excludes(config)
                   ->type_name("N");
  app.add_option("--kv-format", flags.format, "How --kv-bits are used")
      ->check(CLI::IsMember(coded_formats()))
      ->needs(bits)
      ->type_name("affine|turbo|turbo-qjl")
      ->capture_default_str();
  app.add_option("--kv-group-size", flags.group_size,
                 "Values that share a scale and a bias, for affine")
      ->check(CLI::Range(1, 1024).description(""))
      ->needs(bits)
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--quantized-kv-start", flags.quantized_start,
                 "The first N tokens, rounded up to 64, stay float")
      ->check(CLI::Range(0, 1 << 30).description(""))
      ->type_name("N")
      ->capture_default_str();
}

std::optional<cache::CacheOptions> chosen_cache(const CacheFlags& flags,
                                                std::uint64_t seed) {
  if (flags.config.empty() && flags.bits == 0) return std::nullopt;
  return cache_options_of(flags, seed);
}

cache::CacheOptions cache_options_of(const CacheFlags& flags, std::uint64_t seed) {
  cache::CacheOptions options;
  options.seed = seed;
  options.quantized_start = flags.quantized_start;
  if (!flags.config.empty()) {
    const std::filesystem::path file(flags.config);
    options.layers = cache::load_kv_config(file);
    const auto channels = file.parent_path() / cache::kKvChannelsFile;
    if (std::filesystem::exists(channels))
      options.channels = cache::load_kv_channels(channels);
  }
  if (flags.bits > 0) {
    const KvFormat format = format_of(flags);
    options.formats = {format, format_of_values(format)};
  }
  return options;
}

void add_cache_summary(const cache::KvCache& cache, nlohmann::ordered_json& summary) {
  auto formats = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < cache.shapes().size(); ++i)
    if (const cache::LayerPages* layer = cache.layer(static_cast<int>(i)))
      formats.push_back({{"layer_idx", i},
                         {"k", describe(layer->formats.k)},
                         {"v", describe(layer->formats.v)}});
  summary["kv_bytes_per_token"] = cache.bytes_per_token();
  summary["kv_formats"] = formats;
}

}  // namespace optiq::app
