// The architectures, each named once.
#pragma once
#include <filesystem>
#include <memory>
#include <span>

#include "optiq/models/decoder.h"

namespace optiq::models {

/// One architecture: the name that checkpoint/config.h gives it, which is that of its
/// file in this folder (qwen3_5_moe is qwen3_5 with sparse MLPs), and what builds it.
struct Architecture {
  const char* name;
  std::unique_ptr<Model> (*build)(Weights& weights);
};

std::span<const Architecture> architectures();

/// Loads a model from a directory.
///
/// Throws    CheckpointError for anything wrong with the files.
/// Cost      reads all weights once.
std::unique_ptr<Model> load(const std::filesystem::path& directory);

/// The same from an open checkpoint.
std::unique_ptr<Model> load(const checkpoint::Checkpoint& checkpoint);

/// How a checkpoint is opened for the default device to load it from.
checkpoint::OpenOptions open_options();

std::unique_ptr<Model> build_gemma3(Weights& weights);
std::unique_ptr<Model> build_gemma4(Weights& weights);
std::unique_ptr<Model> build_llama(Weights& weights);
std::unique_ptr<Model> build_mistral(Weights& weights);
std::unique_ptr<Model> build_phi3(Weights& weights);
std::unique_ptr<Model> build_qwen2(Weights& weights);
std::unique_ptr<Model> build_qwen3(Weights& weights);
std::unique_ptr<Model> build_qwen3_5(Weights& weights);
std::unique_ptr<Model> build_qwen3_moe(Weights& weights);

}  // namespace optiq::models
