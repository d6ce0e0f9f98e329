// Which tensor belongs to what: the text model's prefix, and the parts left alone.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace optiq::checkpoint {

class Checkpoint;

/// Where the text model's modules are in one checkpoint.
struct TextNames {
  std::string model;  // "model.", "language_model.model.", "model.language_model.", ""
  std::string lm_head;  // "lm_head", "language_model.lm_head"; empty if there is none

  /// "layers.0.mlp.gate_proj" -> "model.layers.0.mlp.gate_proj".
  std::string operator()(std::string_view module) const {
    return model + std::string(module);
  }
};

/// Finds the prefix by the one `embed_tokens.weight`.
///
/// Throws    CheckpointError if there is none, or there are two.
TextNames find_text_names(const Checkpoint& checkpoint);

enum class TensorRole {
  kText,
  kVision,  // a vision tower and its projector
  kAudio,
  kMtp,     // the head that predicts further tokens
  kBuffer,  // values that are computed, such as rotary frequencies
};

TensorRole role_of(std::string_view tensor_name);

/// True for a checkpoint as mlx-lm writes it, false for one as transformers does. They
/// differ in qwen3_5: MLX stores input_layernorm, post_attention_layernorm, q_norm,
/// k_norm and the last norm as 1 + weight (linear_attn.norm is the same in both), and
/// conv1d.weight as [channels, width, 1] for [channels, 1, width]. As mlx-lm does it,
/// the shape of conv1d.weight tells; without conv1d.weight, the `format` of the file
/// does, and nothing is stored differently.
///
/// Source    sanitize() of mlx-lm 0.32.2; docs/formats/checkpoint.md.
bool is_mlx_form(const Checkpoint& checkpoint);

}  // namespace optiq::checkpoint
