// One directory that mlx-lm, PEFT and optiq all load.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "optiq/models/adapter.h"
#include "optiq/models/model.h"

namespace optiq::adapters {

namespace mx = mlx::core;

struct AdapterFiles {
  const models::Adapter* adapter = nullptr;       // its gains are not written
  std::map<std::string, mx::array> magnitudes{};  // of DoRA, by module; [N] each
  std::string base_model;                         // what it was trained on
  double dropout = 0;
  nlohmann::json settings = nlohmann::json::object();  // for optiq_lora_config.json
};

/// Writes into an existing directory:
///   adapter_model.safetensors   PEFT's, each module at its own rank
///   adapters.safetensors        mlx-lm's, which has one rank and one scale: matrices
///                               are padded with zeros and scales folded into lora_b
///   adapter_config.json         the keys of both
///   optiq_lora_config.json      `settings`, `applied_ranks`, `source_model`
///
/// Requires  every module of the adapter is one of the model's layers.
/// Throws    ResourceError
void write_adapter(const std::filesystem::path& directory, models::Model& model,
                   const AdapterFiles& files);

}  // namespace optiq::adapters
