// The tensors of an adapter's directory, by the layer that they are for.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "optiq/adapters/mlx_form.h"
#include "optiq/adapters/peft_form.h"
#include "optiq/checkpoint/checkpoint.h"

namespace optiq::adapters {

/// The names of one layer's tensors.
struct LayerTensors {
  std::string a, b, magnitude;  // empty: not there
};

/// An adapter's files, before any model is looked at.
struct AdapterTensors {
  std::filesystem::path file;
  checkpoint::Checkpoint tensors;
  std::map<std::string, LayerTensors> layers;  // by the path in the base model
  std::optional<PeftScales> peft;              // else mlx-lm's form
  MlxSettings mlx;
  std::string base_model;
  nlohmann::json settings = nlohmann::json::object();  // optiq_lora_config.json

  bool dora() const { return peft ? peft->dora() : mlx.dora; }
  float scale(const std::string& path) const {
    return peft ? peft->scale(path) : mlx.scale;
  }

  /// The rank of a layer's first matrix, as the file has it.
  int rank(const LayerTensors& layer) const;
};

/// Throws    CheckpointError naming file and tensor: for missing or broken files, and
///           for tensors that belong to no LoRA
AdapterTensors open_adapter(const std::filesystem::path& directory);

}  // namespace optiq::adapters
