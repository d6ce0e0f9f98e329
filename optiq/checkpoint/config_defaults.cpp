// What each model type has where its config.json is silent.
#include "optiq/checkpoint/config_parts.h"

namespace optiq::checkpoint {
namespace {

constexpr Defaults kQwen35{.model_type = "qwen3_5",
                           .architecture = "qwen3_5",
                           .head_dim = 256,
                           .n_kv_heads = 4,
                           .max_position_embeddings = 32768,
                           .partial_rotary_factor = 0.25,
                           .qk_norm = true,
                           .is_hybrid = true};
constexpr Defaults kQwen35Moe{.model_type = "qwen3_5_moe",
                              .architecture = "qwen3_5_moe",
                              .head_dim = 256,
                              .n_kv_heads = 2,
                              .max_position_embeddings = 32768,
                              .partial_rotary_factor = 0.25,
                              .qk_norm = true,
                              .is_hybrid = true,
                              .n_experts = 256};
constexpr Defaults kGemma3{.model_type = "gemma3",
                           .architecture = "gemma3",
                           .head_dim = 256,
                           .n_kv_heads = 4,
                           .max_position_embeddings = 131072,
                           .sliding = SlidingRule::kPattern,
                           .sliding_window = 4096,
                           .qk_norm = true,
                           .is_gemma = true,
                           .n_heads = 8,
                           .vocab_size = 262208};
constexpr Defaults kGemma4{.model_type = "gemma4",
                           .architecture = "gemma4",
                           .head_dim = 256,
                           .n_kv_heads = 4,
                           .max_position_embeddings = 131072,
                           .sliding = SlidingRule::kPattern,
                           .sliding_window = 512,
                           .qk_norm = true,
                           .is_gemma = true,
                           .n_heads = 8,
                           .vocab_size = 262144};

constexpr Defaults named(Defaults row, const char* model_type) {
  row.model_type = model_type;
  return row;
}

constexpr Defaults kDefaults[] = {
    kQwen35,
    named(kQwen35, "qwen3_5_text"),
    kQwen35Moe,
    named(kQwen35Moe, "qwen3_5_moe_text"),
    {.model_type = "qwen3",
     .architecture = "qwen3",
     .head_dim = 128,
     .n_kv_heads = 32,
     .max_position_embeddings = 32768,
     .sliding = SlidingRule::kUpperLayers,
     .sliding_window = 4096,
     .qk_norm = true},
    {.model_type = "qwen3_moe",
     .architecture = "qwen3_moe",
     .head_dim = kFromHidden,
     .n_kv_heads = 4,
     .max_position_embeddings = 32768,
     .qk_norm = true,
     .n_experts = 128},
    {.model_type = "qwen2",
     .architecture = "qwen2",
     .head_dim = kFromHidden,
     .n_kv_heads = 32,
     .max_position_embeddings = 32768,
     .bias = BiasRule::kQkvAlways,
     .sliding = SlidingRule::kUpperLayers,
     .sliding_window = 4096},
    {.model_type = "llama",
     .architecture = "llama",
     .head_dim = kFromHidden,
     .n_kv_heads = kAsHeads,
     .max_position_embeddings = 2048},
    {.model_type = "mistral",
     .architecture = "mistral",
     .head_dim = kFromHidden,
     .n_kv_heads = 8,
     .max_position_embeddings = 131072,
     .bias = BiasRule::kNever,
     .sliding = SlidingRule::kAllLayers,
     .sliding_window = 4096},
    {.model_type = "phi3",
     .architecture = "phi3",
     .head_dim = kFromHidden,
     .n_kv_heads = kAsHeads,
     .max_position_embeddings = 4096,
     .bias = BiasRule::kNever,
     .sliding = SlidingRule::kAllLayers,
     .rms_norm_eps = 1e-5},
    kGemma3,
    named(kGemma3, "gemma3_text"),
    kGemma4,
    named(kGemma4, "gemma4_text"),
};

}  // namespace

const Defaults* find_defaults(std::string_view model_type) {
  for (const Defaults& row : kDefaults)
    if (row.model_type == model_type) return &row;
  return nullptr;
}

std::vector<std::string> known_model_types() {
  std::vector<std::string> names;
  for (const Defaults& row : kDefaults) names.push_back(row.model_type);
  return names;
}

}  // namespace optiq::checkpoint
