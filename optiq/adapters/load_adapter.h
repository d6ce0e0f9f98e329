// An adapter's directory -> matrices by module.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "optiq/models/adapter.h"
#include "optiq/models/model.h"

namespace optiq::adapters {

/// An adapter and what its files say of it.
struct LoadedAdapter : models::Adapter {
  std::filesystem::path directory;
  std::string form;        // "mlx" or "peft": whose tensors were read
  std::string base_model;  // that it was trained on, as written; may be empty
  nlohmann::json settings = nlohmann::json::object();  // optiq_lora_config.json, if any
  std::uint64_t bytes = 0;                             // of the matrices

  bool is_dora() const;
};

/// Reads `adapter_model.safetensors` where adapter_config.json is PEFT's, else
/// `adapters.safetensors` of mlx-lm, and checks every matrix against the model. The
/// matrices keep the float type of the file.
///
/// Throws    CheckpointError naming file and tensor: for what does not fit the model,
///           for a tensor that nothing uses, and for a kind of adapter that would not
///           give what it was trained to give
std::shared_ptr<const LoadedAdapter> load_adapter(
    const std::filesystem::path& directory, models::Model& model);

}  // namespace optiq::adapters
