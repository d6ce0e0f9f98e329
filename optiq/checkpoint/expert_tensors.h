// The experts of a mixture, which files store in three ways, seen in one.
//
// Transformers writes `mlp.experts.7.gate_proj.weight` [N, K] for each expert (Qwen3),
// or `mlp.experts.gate_up_proj` [E, 2 N, K] and `mlp.experts.down_proj` for all
// (Qwen3.5); MLX `mlp.switch_mlp.gate_proj.weight` [E, N, K]. All are read as the last.
// Gemma 4's have no `mlp.` before, and in MLX's form `experts.switch_glu`.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {

/// A tensor made of bytes of others, one part after another.
struct GatheredTensor {
  struct Part {
    std::string source;
    std::uint64_t offset;  // in the source's bytes
    std::uint64_t bytes;
  };
  TensorInfo info;  // its offset means nothing
  std::vector<Part> parts;

  bool is_whole() const { return parts.size() == 1; }
};

/// The gathered form of all experts among `tensors`, by name; empty if there are none
/// in another form.
///
/// Throws    CheckpointError for an expert that is missing or unlike the others
/// Source    sanitize() of mlx-lm 0.32.2, qwen3_moe and qwen3_5_moe
std::map<std::string, GatheredTensor> gather_experts(
    const std::vector<const TensorInfo*>& tensors);

}  // namespace optiq::checkpoint
