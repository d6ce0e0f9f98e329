#include "optiq/models/registry.h"

#include <fmt/format.h>

#include "optiq/base/error.h"
#include "optiq/kernels/fused_primitive.h"

namespace optiq::models {
namespace {

constexpr Architecture kArchitectures[] = {
    {"gemma3", build_gemma3},       {"gemma4", build_gemma4},
    {"llama", build_llama},         {"mistral", build_mistral},
    {"phi3", build_phi3},           {"qwen2", build_qwen2},
    {"qwen3", build_qwen3},         {"qwen3_5", build_qwen3_5},
    {"qwen3_5_moe", build_qwen3_5}, {"qwen3_moe", build_qwen3_moe},
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

checkpoint::OpenOptions open_options() {
  checkpoint::OpenOptions options;
  if (kernels::runs_on_cpu()) return options;
  options.residency = checkpoint::Residency::kMapped;
  options.for_host = true;
  return options;
}

std::unique_ptr<Model> load(const checkpoint::Checkpoint& checkpoint) {
  Weights weights(checkpoint);
  const std::string& wanted = weights.config().architecture;
  for (const Architecture& architecture : kArchitectures)
    if (wanted == architecture.name) return architecture.build(weights);
  throw CheckpointError(
      fmt::format("{}: model_type: no architecture '{}' in this build",
                  (checkpoint.directory() / "config.json").string(), wanted));
}

std::unique_ptr<Model> load(const std::filesystem::path& directory) {
  return load(checkpoint::Checkpoint::open(directory, open_options()));
}

}  // namespace optiq::models
