// The parts that parse_model_config() puts together.
#pragma once
#include <string_view>

#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/fields.h"

namespace optiq::checkpoint {

inline constexpr std::int64_t kMaxSize =
    1 << 20;  // of any one dimension but the vocabulary
inline constexpr std::int64_t kMaxLayers = 4096;
inline constexpr std::int64_t kMaxVocabulary = 1 << 24;
inline constexpr std::int64_t kMaxPositions = 1 << 30;
inline constexpr int kFromHidden = 0;  // head_dim = hidden_size / heads
inline constexpr int kAsHeads = 0;     // num_key_value_heads = num_attention_heads

enum class SlidingRule {
  kNever,
  kUpperLayers,  // from max_window_layers, where use_sliding_window
  kAllLayers,    // where there is a sliding_window
  kPattern       // but every sliding_window_pattern-th
};
enum class BiasRule {
  kNever,
  kConfig,
  kQkvAlways
};  // kConfig: attention_bias, q k v o

// What transformers' configuration and model classes say where config.json is silent.
struct Defaults {
  const char* model_type;
  const char* architecture;
  int head_dim;
  int n_kv_heads;
  int max_position_embeddings;
  BiasRule bias = BiasRule::kConfig;
  SlidingRule sliding = SlidingRule::kNever;
  int sliding_window = 0;  // 0: none
  double partial_rotary_factor = 1;
  double rms_norm_eps = 1e-6;
  bool qk_norm = false;
  bool is_hybrid = false;  // every full_attention_interval-th is attention, with a gate
  bool is_gemma = false;
  int n_experts = 0;
  int n_heads = 0;  // 0: must be given, like the next
  int vocab_size = 0;
};

/// The defaults of a model type; null if there is no such type.
const Defaults* find_defaults(std::string_view model_type);

/// The sparse MLPs, for types that have them. Reads config.num_hidden_layers.
void read_experts(const Fields& fields, const Defaults& defaults, ModelConfig& config);

/// What Gemma has besides. Reads the config's heads and layers.
void read_gemma(const Fields& fields, ModelConfig& config);

/// The rotations of full and of sliding attention. Comes after read_gemma.
void read_ropes(const Fields& fields, const Defaults& defaults, ModelConfig& config);

}  // namespace optiq::checkpoint
