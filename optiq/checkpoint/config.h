// What config.json says about a model, checked, with the defaults of transformers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "optiq/checkpoint/rope_config.h"

namespace optiq::checkpoint {

class Checkpoint;

enum class LayerType { kFullAttention, kSlidingAttention, kLinearAttention };

/// The gated delta net layers of qwen3_5 (`linear_*` keys).
struct LinearAttentionConfig {
  int n_key_heads = 0;
  int n_value_heads = 0;
  int key_head_dim = 0;
  int value_head_dim = 0;
  int conv_kernel_dim = 0;
};

/// One text model. Sizes are positive and bounded, heads divide, layer_types has one
/// entry a layer: what is here needs no further checks.
struct ModelConfig {
  std::string model_type;    // as written at the top level: "qwen3_5", "qwen3_5_text"
  std::string architecture;  // "qwen3_5", "qwen3", "qwen2" or "llama"
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_hidden_layers = 0;
  int n_heads = 0;     // num_attention_heads
  int n_kv_heads = 0;  // num_key_value_heads
  int head_dim = 0;
  int vocab_size = 0;
  int max_position_embeddings = 0;
  double rms_norm_eps = 0;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;           // q_norm and k_norm before RoPE
  bool attn_output_gate = false;  // q_proj also gives a gate for attention's output
  int sliding_window = 0;         // 0: no layer has one
  std::vector<LayerType> layer_types;
  RopeConfig rope;
  LinearAttentionConfig linear;  // set where a layer is kLinearAttention
  int mtp_num_hidden_layers = 0;
  std::vector<std::int64_t>
      eos_token_ids;        // generation_config.json's, else the config's
  std::string dtype;        // "bfloat16"; empty if not given
  bool has_vision = false;  // the text part of a multimodal model
  nlohmann::json raw;       // config.json as it is

  bool has_linear_attention() const;
};

/// Reads a config; `generation` is generation_config.json or an empty object.
///
/// Throws    CheckpointError "<file>: <key>: expected ..., found ...".
/// Source    the configuration classes of transformers 5.17, field by field: an absent
///           field has the default of its class, except that the shape of the model
///           (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
///           vocab_size) must be given.
ModelConfig parse_model_config(const nlohmann::json& config,
                               const nlohmann::json& generation,
                               const std::filesystem::path& file);

/// The config of an opened directory, with its generation_config.json if there is one.
ModelConfig model_config(const Checkpoint& checkpoint);

/// The model types that parse_model_config() takes, for messages and listings.
std::vector<std::string> known_model_types();

}  // namespace optiq::checkpoint
