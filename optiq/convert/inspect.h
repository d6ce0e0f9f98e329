// What a converted directory holds, layer by layer, read back from the files.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "optiq/kernels/quant_mode.h"

namespace optiq::convert {

struct InspectedLayer {
  std::string name;               // module path in the directory
  std::optional<QuantSpec> spec;  // from the tensors' shapes; none: float
  std::int64_t params = 0;
  std::int64_t bytes = 0;
  std::optional<double> sensitivity;  // nats, where optiq/sensitivity.json tells
};

struct Inspection {
  std::vector<InspectedLayer> layers;  // the matrices, in the order data walks
  std::int64_t bytes = 0;              // of all weight files
  std::int64_t params = 0;
  double bpw = 0;       // average bits of the quantized matrices
  double bpw_disk = 0;  // 8 bytes / params
};

/// Reads headers and sidecars; no weights.
///
/// Throws    CheckpointError.
Inspection inspect(const std::filesystem::path& directory);

/// The inspection as one self-contained page: bits and sensitivity of each layer.
std::string inspection_page(const Inspection& inspection, const std::string& title);

}  // namespace optiq::convert
