#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "optiq/checkpoint/config_parts.h"

namespace optiq::checkpoint {

namespace {

struct GlobalHeads {
  std::int64_t head_dim, n_kv_heads;
};

// The heads of full attention. transformers 5.17 writes them by layer, and takes these
// before the keys of their own: {"5": {"head_dim": 512, "num_key_value_heads": 1}}.
GlobalHeads global_heads(const Fields& fields, const ModelConfig& config) {
  const auto by_layer = fields.object("per_layer_config");
  if (!by_layer) {
    GlobalHeads heads{fields.integer_or("global_head_dim", 512, 1, 4096),
                      config.n_kv_heads};
    if (config.gemma.attention_k_eq_v)
      heads.n_kv_heads =
          fields.integer_or("num_global_key_value_heads", config.n_kv_heads, 1, 4096);
    return heads;
  }
  std::optional<GlobalHeads> first;
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    GlobalHeads these{config.head_dim, config.n_kv_heads};
    if (const auto layer = by_layer->object(std::to_string(i))) {
      these.head_dim = layer->integer_or("head_dim", these.head_dim, 1, 4096);
      these.n_kv_heads =
          layer->integer_or("num_key_value_heads", these.n_kv_heads, 1, 4096);
    }
    const GlobalHeads& expected = config.is_sliding(i)
                                      ? GlobalHeads{config.head_dim, config.n_kv_heads}
                                      : first.value_or(these);
    if (these.head_dim != expected.head_dim || these.n_kv_heads != expected.n_kv_heads)
      fields.fail(
          "per_layer_config",
          "the same heads in all layers of full attention, and the config's own "
          "in the others",
          fmt::format("layer {}: head_dim {}, num_key_value_heads {}", i,
                      these.head_dim, these.n_kv_heads));
    if (!config.is_sliding(i)) first = these;
  }
  return first.value_or(GlobalHeads{config.head_dim, config.n_kv_heads});
}

}  // namespace

void read_gemma(const Fields& fields, ModelConfig& config) {
  GemmaConfig& gemma = config.gemma;
  const bool newer = config.architecture == "gemma4";
  config.mlp_gate = kernels::GluGate::kGeluTanh;
  if (fields.has("use_bidirectional_attention") &&
      *fields.find("use_bidirectional_attention") != "vision" &&
      *fields.find("use_bidirectional_attention") != false)
    fields.fail("use_bidirectional_attention", "none in a language model");
  gemma.final_logit_softcapping =
      fields.number_or("final_logit_softcapping", 0, 0, 1e6);
  if (!newer) {
    gemma.query_pre_attn_scalar =
        fields.number_or("query_pre_attn_scalar", 256, 1e-6, 1e6);
    return;
  }
  if (fields.boolean_or("enable_moe_block", false)) {
    ExpertsConfig& experts = config.experts;
    experts.n_experts = static_cast<int>(fields.integer("num_experts", 1, 65536));
    experts.n_active =
        static_cast<int>(fields.integer("top_k_experts", 1, experts.n_experts));
    experts.intermediate_size =
        static_cast<int>(fields.integer("moe_intermediate_size", 1, kMaxSize));
    experts.layers.assign(static_cast<std::size_t>(config.num_hidden_layers), true);
  }
  gemma.hidden_size_per_layer_input = static_cast<int>(
      fields.integer_or("hidden_size_per_layer_input", 256, 0, kMaxSize));
  gemma.vocab_size_per_layer_input = static_cast<int>(
      fields.integer_or("vocab_size_per_layer_input", 262144, 1, kMaxVocabulary));
  if (gemma.hidden_size_per_layer_input &&
      gemma.vocab_size_per_layer_input < config.vocab_size)
    fields.fail("vocab_size_per_layer_input",
                fmt::format("at least vocab_size, {}", config.vocab_size),
                std::to_string(gemma.vocab_size_per_layer_input));
  gemma.num_kv_shared_layers = static_cast<int>(
      fields.integer_or("num_kv_shared_layers", 0, 0, config.num_hidden_layers - 1));
  gemma.attention_k_eq_v = fields.boolean_or("attention_k_eq_v", false);
  gemma.use_double_wide_mlp = fields.boolean_or("use_double_wide_mlp", false);
  const GlobalHeads global = global_heads(fields, config);
  gemma.global_head_dim = static_cast<int>(global.head_dim);
  gemma.n_global_kv_heads = static_cast<int>(global.n_kv_heads);
  if (gemma.global_head_dim % 2 != 0)
    fields.fail("global_head_dim", "an even number",
                std::to_string(gemma.global_head_dim));
  if (config.n_heads % gemma.n_global_kv_heads != 0)
    fields.fail("num_global_key_value_heads",
                fmt::format("a divisor of num_attention_heads, {}", config.n_heads),
                std::to_string(gemma.n_global_kv_heads));
  const int own = config.num_hidden_layers - gemma.num_kv_shared_layers;
  for (int i = own; i < config.num_hidden_layers; ++i)
    if (std::find(config.layer_types.begin(), config.layer_types.begin() + own,
                  config.layer_types[static_cast<std::size_t>(i)]) ==
        config.layer_types.begin() + own)
      fields.fail("num_kv_shared_layers",
                  "an earlier layer of the type of each layer that shares");
}

// The rotations of full and of sliding attention.
void read_ropes(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  RopeSource source{.head_dim = config.head_dim,
                    .max_position_embeddings = config.max_position_embeddings,
                    .partial_rotary_factor = defaults.partial_rotary_factor};
  if (!defaults.is_gemma) {
    config.rope = parse_rope(fields, source);
    return;
  }
  RopeSource sliding = source;
  sliding.theta_key = "rope_local_base_freq";
  sliding.layer_type = "sliding_attention";
  sliding.takes_rope_scaling = false;
  config.gemma.sliding_rope = parse_rope(fields, sliding);
  source.theta = 1e6;
  source.layer_type = "full_attention";
  if (config.architecture == "gemma4") {
    source.head_dim = config.gemma.global_head_dim;
    source.type = RopeType::kProportional;
    source.partial_rotary_factor = 0.25;
    // transformers' default holds where there are no rope_parameters at all.
    if (fields.has("rope_parameters")) {
      source.type = RopeType::kDefault;
      source.partial_rotary_factor = 1;
    }
  }
  config.rope = parse_rope(fields, source);
}

}  // namespace optiq::checkpoint
