#include "optiq/checkpoint/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "optiq/checkpoint/fields.h"

namespace optiq::checkpoint {
namespace {

constexpr std::int64_t kMaxSize = 1 << 20;  // of any one dimension but the vocabulary
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxVocabulary = 1 << 24;
constexpr std::int64_t kMaxPositions = 1 << 30;
constexpr int kFromHidden = 0;  // head_dim = hidden_size / heads
constexpr int kAsHeads = 0;     // num_key_value_heads = num_attention_heads

enum class SlidingRule {
  kNever,
  kUpperLayers
};                                            // kUpperLayers: from max_window_layers
enum class BiasRule { kConfig, kQkvAlways };  // kConfig: attention_bias, q k v and o

// What transformers' configuration and model classes say where config.json is silent.
struct Defaults {
  const char* model_type;
  const char* architecture;
  int head_dim;
  int n_kv_heads;
  int max_position_embeddings;
  double partial_rotary_factor;
  BiasRule bias;
  SlidingRule sliding;
  bool qk_norm;
  bool is_hybrid;  // every full_attention_interval-th layer is attention, with a gate
};

constexpr Defaults kDefaults[] = {
    {"qwen3_5", "qwen3_5", 256, 4, 32768, 0.25, BiasRule::kConfig, SlidingRule::kNever,
     true, true},
    {"qwen3_5_text", "qwen3_5", 256, 4, 32768, 0.25, BiasRule::kConfig,
     SlidingRule::kNever, true, true},
    {"qwen3", "qwen3", 128, 32, 32768, 1, BiasRule::kConfig, SlidingRule::kUpperLayers,
     true, false},
    {"qwen2", "qwen2", kFromHidden, 32, 32768, 1, BiasRule::kQkvAlways,
     SlidingRule::kUpperLayers, false, false},
    {"llama", "llama", kFromHidden, kAsHeads, 2048, 1, BiasRule::kConfig,
     SlidingRule::kNever, false, false},
};

const Defaults& defaults_of(const Fields& top) {
  const std::string type = top.text("model_type");
  for (const Defaults& row : kDefaults)
    if (row.model_type == type) return row;
  top.fail("model_type",
           fmt::format("one of {}", fmt::join(known_model_types(), ", ")));
}

int size_of(const Fields& fields, const char* key, std::int64_t max = kMaxSize) {
  return static_cast<int>(fields.integer(key, 1, max));
}

void read_heads(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  config.n_heads = size_of(fields, "num_attention_heads", 4096);
  const int kv_default =
      defaults.n_kv_heads == kAsHeads ? config.n_heads : defaults.n_kv_heads;
  // A null is not an absence here: it means one key head for each query head.
  const bool is_null = fields.json().contains("num_key_value_heads");
  config.n_kv_heads = static_cast<int>(fields.integer_or(
      "num_key_value_heads", is_null ? config.n_heads : kv_default, 1, 4096));
  if (config.n_heads % config.n_kv_heads != 0)
    fields.fail("num_key_value_heads",
                fmt::format("a divisor of num_attention_heads, {}", config.n_heads),
                std::to_string(config.n_kv_heads));
  if (defaults.head_dim == kFromHidden && !fields.has("head_dim") &&
      config.hidden_size % config.n_heads != 0)
    fields.fail("num_attention_heads",
                fmt::format("a divisor of hidden_size, {}", config.hidden_size));
  const int head_dim = defaults.head_dim == kFromHidden
                           ? config.hidden_size / config.n_heads
                           : defaults.head_dim;
  config.head_dim = static_cast<int>(fields.integer_or("head_dim", head_dim, 1, 4096));
  if (config.head_dim % 2 != 0)
    fields.fail("head_dim", "an even number", std::to_string(config.head_dim));
}

void read_biases(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  if (defaults.bias == BiasRule::kQkvAlways) {
    config.qkv_bias = true;
  } else {
    config.qkv_bias = config.o_bias = fields.boolean_or("attention_bias", false);
  }
  config.mlp_bias = config.architecture == std::string("llama") &&
                    fields.boolean_or("mlp_bias", false);
}

LayerType layer_type(const Fields& fields, const std::string& name) {
  if (name == "full_attention" || name == "attention") return LayerType::kFullAttention;
  if (name == "sliding_attention") return LayerType::kSlidingAttention;
  if (name == "linear_attention") return LayerType::kLinearAttention;
  fields.fail("layer_types",
              "full_attention, sliding_attention or linear_attention in each place",
              name.substr(0, 80));
}

void read_layers(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  const int layers = config.num_hidden_layers;
  int window = 0;
  if (defaults.sliding == SlidingRule::kUpperLayers &&
      fields.boolean_or("use_sliding_window", false) &&
      !(fields.json().contains("sliding_window") && !fields.has("sliding_window")))
    window =
        static_cast<int>(fields.integer_or("sliding_window", 4096, 1, kMaxPositions));

  const std::vector<std::string> names = fields.texts("layer_types");
  if (fields.has("layer_types")) {
    if (names.size() != static_cast<std::size_t>(layers))
      fields.fail("layer_types", fmt::format("num_hidden_layers = {} entries", layers),
                  std::to_string(names.size()));
    for (const std::string& name : names)
      config.layer_types.push_back(layer_type(fields, name));
  } else if (defaults.is_hybrid) {
    const auto interval =
        fields.integer_or("full_attention_interval", 4, 1, kMaxLayers);
    for (int i = 0; i < layers; ++i)
      config.layer_types.push_back((i + 1) % interval == 0
                                       ? LayerType::kFullAttention
                                       : LayerType::kLinearAttention);
  } else {
    const auto first = fields.integer_or("max_window_layers", 28, 0, kMaxLayers);
    for (int i = 0; i < layers; ++i)
      config.layer_types.push_back(window > 0 && i >= first
                                       ? LayerType::kSlidingAttention
                                       : LayerType::kFullAttention);
  }

  const auto has = [&](LayerType type) {
    return std::ranges::find(config.layer_types, type) != config.layer_types.end();
  };
  if (has(LayerType::kLinearAttention) && !defaults.is_hybrid)
    fields.fail("layer_types",
                fmt::format("no linear_attention in {}", config.architecture),
                "linear_attention");
  if (has(LayerType::kSlidingAttention)) {
    if (window == 0)
      fields.fail("layer_types", "no sliding_attention without a sliding_window in use",
                  "sliding_attention");
    config.sliding_window = window;
  }
}

void read_linear_attention(const Fields& fields, ModelConfig& config) {
  const auto get = [&](const char* key, int otherwise, int min, int max) {
    return static_cast<int>(fields.integer_or(key, otherwise, min, max));
  };
  LinearAttentionConfig& linear = config.linear;
  linear.n_key_heads = get("linear_num_key_heads", 16, 1, 4096);
  linear.n_value_heads = get("linear_num_value_heads", 32, 1, 4096);
  linear.key_head_dim = get("linear_key_head_dim", 128, 1, 4096);
  linear.value_head_dim = get("linear_value_head_dim", 128, 1, 4096);
  // Width 1 would make the Hugging Face and MLX layouts of conv1d.weight alike.
  linear.conv_kernel_dim = get("linear_conv_kernel_dim", 4, 2, 64);
  if (linear.n_value_heads % linear.n_key_heads != 0)
    fields.fail(
        "linear_num_value_heads",
        fmt::format("a multiple of linear_num_key_heads, {}", linear.n_key_heads),
        std::to_string(linear.n_value_heads));
}

}  // namespace

bool ModelConfig::has_linear_attention() const {
  return std::ranges::find(layer_types, LayerType::kLinearAttention) !=
         layer_types.end();
}

std::vector<std::string> known_model_types() {
  std::vector<std::string> names;
  for (const Defaults& row : kDefaults) names.push_back(row.model_type);
  return names;
}

ModelConfig parse_model_config(const nlohmann::json& json,
                               const nlohmann::json& generation,
                               const std::filesystem::path& file) {
  const Fields top(json, file);
  const Defaults& defaults = defaults_of(top);
  const std::optional<Fields> nested = top.object("text_config");
  const Fields& fields = nested ? *nested : top;

  ModelConfig config;
  config.raw = json;
  config.model_type = defaults.model_type;
  config.architecture = defaults.architecture;
  config.hidden_size = size_of(fields, "hidden_size");
  config.intermediate_size = size_of(fields, "intermediate_size");
  config.num_hidden_layers = size_of(fields, "num_hidden_layers", kMaxLayers);
  config.vocab_size = size_of(fields, "vocab_size", kMaxVocabulary);
  config.max_position_embeddings = static_cast<int>(fields.integer_or(
      "max_position_embeddings", defaults.max_position_embeddings, 1, kMaxPositions));
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6, 0, 1);
  if (const std::string act = fields.text_or("hidden_act", "silu"); act != "silu")
    fields.fail("hidden_act", "silu");
  read_heads(fields, defaults, config);
  read_biases(fields, defaults, config);
  read_layers(fields, defaults, config);
  if (config.has_linear_attention()) read_linear_attention(fields, config);
  config.qk_norm = defaults.qk_norm;
  config.attn_output_gate =
      defaults.is_hybrid && fields.boolean_or("attn_output_gate", true);
  config.rope = parse_rope(fields, config.head_dim, config.max_position_embeddings,
                           defaults.partial_rotary_factor);
  // A multimodal model ties as its own level says; older ones say it in the text part.
  config.tie_word_embeddings = (top.has("tie_word_embeddings") ? top : fields)
                                   .boolean_or("tie_word_embeddings", false);
  config.mtp_num_hidden_layers =
      static_cast<int>(fields.integer_or("mtp_num_hidden_layers", 0, 0, kMaxLayers));
  config.has_vision = top.has("vision_config");

  const Fields generating(generation, file.parent_path() / "generation_config.json");
  for (const Fields* source : {&generating, &top, &fields})
    if (config.eos_token_ids.empty())
      config.eos_token_ids = source->integers("eos_token_id", 0, INT32_MAX);
  for (const Fields* source : {&fields, &top})
    for (const char* key : {"dtype", "torch_dtype"})
      if (config.dtype.empty()) config.dtype = source->text_or(key, "");
  return config;
}

}  // namespace optiq::checkpoint
