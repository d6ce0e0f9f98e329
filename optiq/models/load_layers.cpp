// The pieces of a decoder from the names that all our architectures use.
#include <cmath>
#include <utility>

#include "optiq/models/decoder.h"

namespace optiq::models {

SelfAttention attention_frame(const checkpoint::ModelConfig& c, int i, LinearModule q,
                              LinearModule o) {
  return {.q = std::move(q),
          .k = std::nullopt,
          .v = std::nullopt,
          .o = std::move(o),
          .q_norm = std::nullopt,
          .k_norm = std::nullopt,
          .v_norm = std::nullopt,
          .rope = rope_frequencies(c.rope),
          .eps = static_cast<float>(c.rms_norm_eps),
          .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          .n_heads = c.n_heads,
          .n_kv_heads = c.n_kv_heads,
          .head_dim = c.head_dim,
          .window = c.is_sliding(i) ? c.sliding_window : 0};
}

SelfAttention load_attention(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".self_attn.";
  const int q_rows = c.n_heads * c.head_dim, kv_rows = c.n_kv_heads * c.head_dim;
  const auto projection = [&](const char* which, int rows) {
    return weights.linear(name + which, i, rows, c.hidden_size, c.qkv_bias);
  };
  SelfAttention attention = attention_frame(
      c, i, projection("q_proj", c.attn_output_gate ? 2 * q_rows : q_rows),
      weights.linear(name + "o_proj", i, c.hidden_size, q_rows, c.o_bias));
  attention.k = projection("k_proj", kv_rows);
  attention.v = projection("v_proj", kv_rows);
  attention.gated = c.attn_output_gate;
  if (c.qk_norm) {
    attention.q_norm = weights.norm(name + "q_norm", c.head_dim);
    attention.k_norm = weights.norm(name + "k_norm", c.head_dim);
  }
  return attention;
}

Mlp load_mlp(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".mlp.";
  const int hidden = c.hidden_size, inner = c.intermediate_size;
  return {weights.linear(name + "gate_proj", i, inner, hidden, c.mlp_bias),
          weights.linear(name + "up_proj", i, inner, hidden, c.mlp_bias),
          weights.linear(name + "down_proj", i, hidden, inner, c.mlp_bias), c.mlp_gate};
}

std::variant<Mlp, SparseMlp> load_dense_or_sparse_mlp(const Weights& weights, int i) {
  const auto& c = weights.config();
  const checkpoint::ExpertsConfig& e = c.experts;
  if (e.n_experts == 0 || !e.layers[static_cast<std::size_t>(i)])
    return load_mlp(weights, i);
  const std::string name = "layers." + std::to_string(i) + ".mlp.";
  const int hidden = c.hidden_size;
  const auto experts = [&](const char* which, int N, int K) {
    return weights.experts(name + "switch_mlp." + which, i, e.n_experts, N, K);
  };
  SparseMlp mlp{.router = weights.linear(name + "gate", i, e.n_experts, hidden),
                .gate = experts("gate_proj", e.intermediate_size, hidden),
                .up = experts("up_proj", e.intermediate_size, hidden),
                .down = experts("down_proj", hidden, e.intermediate_size),
                .n_active = e.n_active,
                .normalize = e.normalize};
  if (const int inner = e.shared_intermediate_size; inner > 0) {
    const std::string shared = name + "shared_expert.";
    mlp.shared = Mlp{weights.linear(shared + "gate_proj", i, inner, hidden),
                     weights.linear(shared + "up_proj", i, inner, hidden),
                     weights.linear(shared + "down_proj", i, hidden, inner)};
    mlp.shared_gate = weights.linear(name + "shared_expert_gate", i, 1, hidden);
  }
  return mlp;
}

DecoderParts load_ends(const Weights& weights, std::vector<DecoderLayer> layers) {
  const auto& config = weights.config();
  const int hidden = config.hidden_size;
  DecoderParts parts{
      .embedding = weights.linear("embed_tokens", LinearModule::kEmbedding,
                                  config.vocab_size, hidden),
      .layers = std::move(layers),
      .norm = weights.norm("norm", hidden),
      .head = std::nullopt};
  if (!config.tie_word_embeddings) parts.head = weights.head(config.vocab_size, hidden);
  return parts;
}

}  // namespace optiq::models
