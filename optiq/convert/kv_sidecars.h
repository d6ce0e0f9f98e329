// The files that `optiq kv-cache` writes.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/convert/kv_cache.h"

namespace optiq::convert {

/// kv_config.json: `bits` is the wider of k_bits and v_bits, so that a reader that
/// knows no others loses no quality.
nlohmann::ordered_json kv_config_json(const KvCacheResult& result);

/// kv_sensitivity.json: the keys of mlx-optiq; with keys and values apart,
/// `sensitivities` is their sum, and k_sensitivities and v_sensitivities are beside it.
nlohmann::ordered_json kv_sensitivity_json(const KvCacheResult& result);

/// Where the files go. A directory that is not there yet appears whole; in one that is,
/// every file is replaced whole, kv_config.json last.
class KvCacheOutput {
 public:
  /// Throws    ResourceError if it cannot be written
  explicit KvCacheOutput(std::filesystem::path directory);

  /// kv_channels.safetensors too, unless nothing is done to them.
  void write(const KvCacheResult& result, const cache::KvChannels& channels);

 private:
  std::filesystem::path directory_;
  std::optional<AtomicDirectory> fresh_;  // none: the directory was there
};

}  // namespace optiq::convert
