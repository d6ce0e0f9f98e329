// What config.json says about a model, checked, with the defaults of transformers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "optiq/checkpoint/rope_config.h"
#include "optiq/kernels/glu/glu.h"

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

/// The sparse MLPs of a mixture of experts.
struct ExpertsConfig {
  int n_experts = 0;  // 0: all MLPs are dense
  int n_active = 0;   // experts a token
  int intermediate_size = 0;
  int shared_intermediate_size = 0;  // of the expert that all tokens visit; 0: none
  bool normalize = true;             // weights of a token's experts sum to 1
  std::vector<bool> layers;          // by layer: is its MLP sparse?
};

/// What Gemma's layers have besides.
struct GemmaConfig {
  double query_pre_attn_scalar = 0;     // q k is scaled by its inverse root; 0: by 1
  double final_logit_softcapping = 0;   // 0: none
  int hidden_size_per_layer_input = 0;  // 0: no embedding for each layer
  int vocab_size_per_layer_input = 0;
  int num_kv_shared_layers = 0;   // the last layers use keys and values of earlier ones
  bool attention_k_eq_v = false;  // full attention has no v_proj
  bool use_double_wide_mlp = false;  // layers that share have twice the MLP
  int global_head_dim = 0;           // of full attention
  int n_global_kv_heads = 0;
  RopeConfig sliding_rope;  // of sliding attention
};

/// One text model. Sizes are positive and bounded, heads divide, layer_types has one
/// entry a layer: what is here needs no further checks.
struct ModelConfig {
  std::string model_type;    // as written at the top level: "qwen3_5", "qwen3_5_text"
  std::string architecture;  // one of models/registry.cpp
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
  ExpertsConfig experts;
  kernels::GluGate mlp_gate = kernels::GluGate::kSilu;
  GemmaConfig gemma;  // set for gemma3 and gemma4
  int mtp_num_hidden_layers = 0;
  std::vector<std::int64_t>
      eos_token_ids;        // generation_config.json's, else the config's
  std::string dtype;        // "bfloat16"; empty if not given
  bool has_vision = false;  // the text part of a multimodal model
  nlohmann::json raw;       // config.json as it is

  bool has_linear_attention() const;
  bool is_sliding(int layer) const {
    return layer_types[static_cast<std::size_t>(layer)] == LayerType::kSlidingAttention;
  }
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
