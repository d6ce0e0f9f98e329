// The form of mlx-lm: `<path>.lora_a` [K, rank], `<path>.lora_b` [rank, N], `<path>.m`.
#pragma once
#include <filesystem>

namespace optiq::adapters {

/// What adapter_config.json says of all modules.
struct MlxSettings {
  float scale = 1;
  bool dora = false;
};

/// Throws    CheckpointError naming the file and the key
/// Source    mlx-lm 0.32.2, tuner/utils.py: `lora_parameters.scale`; files of before
///           had alpha and rank.
MlxSettings read_mlx_settings(const std::filesystem::path& config_file);

}  // namespace optiq::adapters
