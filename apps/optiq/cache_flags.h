// The flags that say how keys and values are cached.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "optiq/cache/kv_cache.h"

namespace optiq::app {

struct CacheFlags {
  std::string config;
  int bits = 0;  // 0: not given
  std::string format = "affine";
  int group_size = 64;
  int quantized_start = 0;
};

/// Adds --kv-config, --kv-bits, --kv-format, --kv-group-size, --quantized-kv-start.
void add_cache_flags(CLI::App& app, CacheFlags& flags);

/// What the flags ask for; none if they ask for nothing.
///
/// Throws    UsageError for a format that there is not; CheckpointError naming the file
///           of --kv-config.
std::optional<cache::CacheOptions> chosen_cache(const CacheFlags& flags,
                                                std::uint64_t seed);

/// The same, or a cache in float.
cache::CacheOptions cache_options_of(const CacheFlags& flags, std::uint64_t seed);

/// For a run's summary: kv_bytes_per_token and kv_formats, a list of {layer_idx, k, v}.
void add_cache_summary(const cache::KvCache& cache, nlohmann::ordered_json& summary);

}  // namespace optiq::app
