#include "optiq/checkpoint/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "optiq/checkpoint/config_parts.h"
#include "optiq/checkpoint/fields.h"

namespace optiq::checkpoint {
namespace {

const Defaults& defaults_of(const Fields& top) {
  const std::string type = top.text("model_type");
  if (const Defaults* row = find_defaults(type)) return *row;
  top.fail("model_type",
           fmt::format("one of {}", fmt::join(known_model_types(), ", ")));
}

int size_of(const Fields& fields, const char* key, std::int64_t max = kMaxSize) {
  return static_cast<int>(fields.integer(key, 1, max));
}

void read_heads(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  config.n_heads = defaults.n_heads
                       ? static_cast<int>(fields.integer_or("num_attention_heads",
                                                            defaults.n_heads, 1, 4096))
                       : size_of(fields, "num_attention_heads", 4096);
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
  } else if (defaults.bias == BiasRule::kConfig) {
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

// The window of sliding layers; 0: the config has none.
int read_window(const Fields& fields, const Defaults& defaults) {
  if (defaults.sliding == SlidingRule::kNever) return 0;
  if (defaults.sliding == SlidingRule::kUpperLayers &&
      !fields.boolean_or("use_sliding_window", false))
    return 0;
  // A null is not an absence here: it means no window.
  if (fields.json().contains("sliding_window") && !fields.has("sliding_window"))
    return 0;
  return static_cast<int>(fields.integer_or("sliding_window", defaults.sliding_window,
                                            defaults.sliding_window ? 1 : 0,
                                            kMaxPositions));
}

std::vector<LayerType> types_by_rule(const Fields& fields, const Defaults& defaults,
                                     int layers, int window) {
  std::int64_t first = 0, interval = 0;
  if (defaults.is_hybrid)
    interval = fields.integer_or("full_attention_interval", 4, 1, kMaxLayers);
  else if (defaults.sliding == SlidingRule::kPattern)
    interval = fields.integer_or("sliding_window_pattern", 6, 1, kMaxLayers);
  else if (defaults.sliding == SlidingRule::kUpperLayers)
    first = fields.integer_or("max_window_layers", 28, 0, kMaxLayers);
  const LayerType other = defaults.is_hybrid ? LayerType::kLinearAttention
                          : window > 0       ? LayerType::kSlidingAttention
                                             : LayerType::kFullAttention;
  std::vector<LayerType> types;
  for (int i = 0; i < layers; ++i) {
    const bool full = interval > 0 ? (i + 1) % interval == 0 : i < first;
    types.push_back(full ? LayerType::kFullAttention : other);
  }
  return types;
}

void read_layers(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  const int layers = config.num_hidden_layers;
  const int window = read_window(fields, defaults);
  // Mistral's and phi3's classes pass layer_types over.
  const bool has_types =
      fields.has("layer_types") && defaults.sliding != SlidingRule::kAllLayers;
  if (has_types) {
    const std::vector<std::string> names = fields.texts("layer_types");
    if (names.size() != static_cast<std::size_t>(layers))
      fields.fail("layer_types", fmt::format("num_hidden_layers = {} entries", layers),
                  std::to_string(names.size()));
    for (const std::string& name : names)
      config.layer_types.push_back(layer_type(fields, name));
  } else {
    config.layer_types = types_by_rule(fields, defaults, layers, window);
  }
  if (config.architecture == "gemma4")
    config.layer_types.back() = LayerType::kFullAttention;

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
  // A model whose MLPs are all sparse has no other width.
  config.intermediate_size = defaults.n_experts && !fields.has("intermediate_size")
                                 ? 0
                                 : size_of(fields, "intermediate_size");
  config.num_hidden_layers = size_of(fields, "num_hidden_layers", kMaxLayers);
  config.vocab_size = defaults.vocab_size
                          ? static_cast<int>(fields.integer_or(
                                "vocab_size", defaults.vocab_size, 1, kMaxVocabulary))
                          : size_of(fields, "vocab_size", kMaxVocabulary);
  config.max_position_embeddings = static_cast<int>(fields.integer_or(
      "max_position_embeddings", defaults.max_position_embeddings, 1, kMaxPositions));
  config.rms_norm_eps = fields.number_or("rms_norm_eps", defaults.rms_norm_eps, 0, 1);
  const char* act_key = defaults.is_gemma ? "hidden_activation" : "hidden_act";
  const char* act = defaults.is_gemma ? "gelu_pytorch_tanh" : "silu";
  if (fields.text_or(act_key, act) != act) fields.fail(act_key, act);
  read_heads(fields, defaults, config);
  read_biases(fields, defaults, config);
  read_layers(fields, defaults, config);
  if (config.has_linear_attention()) read_linear_attention(fields, config);
  config.qk_norm = defaults.qk_norm;
  config.attn_output_gate =
      defaults.is_hybrid && fields.boolean_or("attn_output_gate", true);
  if (defaults.n_experts) read_experts(fields, defaults, config);
  if (defaults.is_gemma) read_gemma(fields, config);
  read_ropes(fields, defaults, config);
  // A multimodal model ties as its own level says; older ones say it in the text part.
  config.tie_word_embeddings =
      (top.has("tie_word_embeddings") ? top : fields)
          .boolean_or("tie_word_embeddings", defaults.is_gemma);
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
