// Gemma 4: Gemma 3's frame with heads of another size in full attention, values normed,
// queries not scaled, later layers that share keys and values with earlier ones, an
// embedding for each layer, a scale of each layer's result, and, in one of its models,
// experts beside each MLP.
#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/models/registry.h"

namespace optiq::models {
namespace {

// The layer whose keys and values layer i uses: the last one of its kind that has any.
int sharing_of(const checkpoint::ModelConfig& c, int i) {
  const int own = c.num_hidden_layers - c.gemma.num_kv_shared_layers;
  if (i < own) return -1;
  int layer = own - 1;
  while (c.is_sliding(layer) != c.is_sliding(i)) --layer;
  return layer;
}

SelfAttention load_gemma4_attention(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".self_attn.";
  const bool full = !c.is_sliding(i);
  const int D = full ? c.gemma.global_head_dim : c.head_dim;
  const int kv_heads = full ? c.gemma.n_global_kv_heads : c.n_kv_heads;
  const auto projection = [&](const char* which, int rows) {
    return weights.linear(name + which, i, rows, c.hidden_size, c.qkv_bias);
  };
  SelfAttention attention = attention_frame(
      c, i, projection("q_proj", c.n_heads * D),
      weights.linear(name + "o_proj", i, c.hidden_size, c.n_heads * D, c.o_bias));
  attention.q_norm = weights.norm(name + "q_norm", D);
  if (!full) attention.rope = rope_frequencies(c.gemma.sliding_rope);
  attention.scale = 1;
  attention.n_kv_heads = kv_heads;
  attention.head_dim = D;
  attention.shares_with = sharing_of(c, i);
  if (attention.shares_with >= 0) return attention;
  attention.k = projection("k_proj", kv_heads * D);
  if (!full || !c.gemma.attention_k_eq_v)
    attention.v = projection("v_proj", kv_heads * D);
  attention.k_norm = weights.norm(name + "k_norm", D);
  attention.v_norm = mx::ones({D});
  mx::eval(*attention.v_norm);
  return attention;
}

Mlp load_gemma4_mlp(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".mlp.";
  const bool wide = c.gemma.use_double_wide_mlp && sharing_of(c, i) >= 0;
  const int hidden = c.hidden_size, inner = c.intermediate_size * (wide ? 2 : 1);
  return {weights.linear(name + "gate_proj", i, inner, hidden),
          weights.linear(name + "up_proj", i, inner, hidden),
          weights.linear(name + "down_proj", i, hidden, inner), c.mlp_gate};
}

ParallelExperts load_gemma4_experts(const Weights& weights, int i) {
  const auto& c = weights.config();
  const checkpoint::ExpertsConfig& e = c.experts;
  const std::string name = "layers." + std::to_string(i) + ".";
  const int hidden = c.hidden_size, inner = e.intermediate_size;
  const auto experts = [&](const char* which, int N, int K) {
    return weights.experts(name + "experts.switch_glu." + which, i, e.n_experts, N, K);
  };
  const auto norm = [&](const char* which) {
    return weights.norm(name + which, hidden);
  };
  mx::array router_norm = weights.vector(name + "router.scale", hidden) *
                          (1 / std::sqrt(static_cast<float>(hidden)));
  mx::eval(router_norm);
  return {.router_norm = std::move(router_norm),
          .router = weights.linear(name + "router.proj", i, e.n_experts, hidden),
          .expert_scale = weights.vector(name + "router.per_expert_scale", e.n_experts),
          .input_norm = norm("pre_feedforward_layernorm_2"),
          .gate = experts("gate_proj", inner, hidden),
          .up = experts("up_proj", inner, hidden),
          .down = experts("down_proj", hidden, inner),
          .dense_norm = norm("post_feedforward_layernorm_1"),
          .output_norm = norm("post_feedforward_layernorm_2"),
          .n_active = e.n_active,
          .eps = static_cast<float>(c.rms_norm_eps),
          .f = c.mlp_gate};
}

PerLayerInput load_per_layer(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".";
  const int hidden = c.hidden_size, P = c.gemma.hidden_size_per_layer_input;
  return {weights.linear(name + "per_layer_input_gate", i, P, hidden),
          weights.linear(name + "per_layer_projection", i, hidden, P),
          weights.norm(name + "post_per_layer_input_norm", hidden),
          static_cast<float>(c.rms_norm_eps)};
}

}  // namespace

std::unique_ptr<Model> build_gemma4(Weights& weights) {
  const auto& c = weights.config();
  const int hidden = c.hidden_size, P = c.gemma.hidden_size_per_layer_input;
  std::vector<DecoderLayer> layers;
  for (int i = 0; i < c.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i) + ".";
    const auto norm = [&](const char* which) {
      return weights.norm(name + which, hidden);
    };
    layers.push_back({.input_norm = norm("input_layernorm"),
                      .mixer = load_gemma4_attention(weights, i),
                      .mixed_norm = norm("post_attention_layernorm"),
                      .mlp_norm = norm("pre_feedforward_layernorm"),
                      .mlp = load_gemma4_mlp(weights, i),
                      .mlp_out_norm = norm("post_feedforward_layernorm")});
    if (c.experts.n_experts > 0)
      layers.back().experts = load_gemma4_experts(weights, i);
    if (P > 0) layers.back().per_layer = load_per_layer(weights, i);
    layers.back().scale = weights.vector(name + "layer_scalar", 1).item<float>();
  }
  DecoderParts parts = load_ends(weights, std::move(layers));
  parts.embedding_scale = std::sqrt(static_cast<float>(hidden));
  parts.softcap = static_cast<float>(c.gemma.final_logit_softcapping);
  if (P > 0) {
    const int width = c.num_hidden_layers * P;
    parts.per_layer = PerLayerEmbedding{
        weights.linear("embed_tokens_per_layer", LinearModule::kEmbedding,
                       c.gemma.vocab_size_per_layer_input, width),
        weights.linear("per_layer_model_projection", LinearModule::kEmbedding, width,
                       hidden),
        weights.norm("per_layer_projection_norm", P),
        static_cast<float>(c.rms_norm_eps), c.num_hidden_layers};
  }
  return std::make_unique<Decoder>(c, std::move(parts));
}

}  // namespace optiq::models
