// What a converted directory holds, layer by layer, read back from the files.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/convert/options.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::convert {

struct InspectedLayer {
  std::string name;               // module path in the directory
  std::optional<QuantSpec> spec;  // from the tensors' shapes; none: float
  std::int64_t params = 0;
  std::int64_t bytes = 0;
  std::optional<double> sensitivity;  // nats, where optiq/sensitivity.json tells
};

/// The formats of one layer's cache, and what kv_sensitivity.json tells of it.
struct InspectedCache {
  cache::LayerEntry entry;
  // In nats, by bits; for keys and values apart where that was measured.
  std::map<int, double> sensitivities, k_sensitivities, v_sensitivities;
};

/// What optiq/metadata.json tells of how the model was made; empty where it does not.
struct Decision {
  std::string base_model;
  std::string allocation;
  std::optional<double> kl_mean, kl_p99;
  std::vector<CurvePoint> curve;
};

struct Inspection {
  std::vector<InspectedLayer> layers;  // the matrices, in the order data walks
  std::vector<InspectedCache> caches;  // of kv_config.json, where there is one
  Decision decision;
  std::int64_t bytes = 0;  // of all weight files
  std::int64_t params = 0;
  double bpw = 0;       // average bits of the quantized matrices
  double bpw_disk = 0;  // 8 bytes / params
};

/// Reads headers and sidecars; no weights. `kv_config` is a kv_config.json, with
/// kv_sensitivity.json beside it or not; none: the directory's, or its optiq/'s, if
/// there is one.
///
/// Throws    CheckpointError.
Inspection inspect(const std::filesystem::path& directory,
                   const std::optional<std::filesystem::path>& kv_config = {});

/// The inspection as one self-contained page: size against divergence, bits and
/// sensitivity of each matrix, and of each layer's cache.
std::string inspection_page(const Inspection& inspection, const std::string& title);

}  // namespace optiq::convert
