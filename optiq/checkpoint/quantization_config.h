// Which modules of a checkpoint are quantized and how: config.json against the shapes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "optiq/checkpoint/packed_config.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::checkpoint {

class Checkpoint;

/// The `quantization` of an MLX config.json: one spec for all modules and entries of
/// their own for some.
struct Quantization {
  QuantSpec defaults;
  // By module path; no value stands for `false`: not quantized.
  std::map<std::string, std::optional<QuantSpec>, std::less<>> overrides;

  /// What the config says of a module; none: not quantized.
  std::optional<QuantSpec> lookup(std::string_view module_path) const;

  /// The object as it is written: defaults and overrides with their modes.
  nlohmann::json to_json() const;
};

/// Reads `quantization`, else `quantization_config`, of the config or its text_config;
/// none if the model is not quantized.
///
/// Throws    CheckpointError naming the key; for methods that are not read, one that
///           lists those that are.
std::optional<Quantization> parse_quantization(const nlohmann::json& config,
                                               const std::filesystem::path& file);

/// The same of matrices that others packed; none if there are no such.
///
/// Throws    as parse_packed()
std::optional<PackedConfig> packed_config(const nlohmann::json& config,
                                          const std::filesystem::path& file);

/// One quantized matrix as its tensors have it.
struct QuantizedModule {
  QuantSpec spec;
  std::int64_t rows;     // N, the product of all dimensions but the last
  std::int64_t columns;  // K
};

/// How a module is stored, none if it is not quantized. As in mlx-lm a module is
/// quantized if it has `.scales`; the width comes from the shapes: K = columns of
/// weight x 32 / bits = columns of scales x group_size. What config.json says of the
/// module by name must agree; the default for all others may differ, and then the
/// shapes hold.
///
/// Requires  `columns` = K if it is known; else 0, and config.json chooses among the
///           widths that fit the shapes (4 bits in groups of 64 has the shapes of 8
///           bits in groups of 32).
/// Throws    CheckpointError naming the module: shapes that fit no format, missing or
///           needless biases, scales of a wrong type, or a config that says otherwise.
std::optional<QuantizedModule> module_quantization(const Checkpoint& checkpoint,
                                                   const Quantization* quantization,
                                                   std::string_view module_path,
                                                   std::int64_t columns = 0);

}  // namespace optiq::checkpoint
