// Phi-3: llama whose queries, keys and values are one matrix, and gate and up another.
#include "optiq/models/registry.h"

namespace optiq::models {
namespace {

SelfAttention load_packed_attention(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".self_attn.";
  const int rows = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
  return attention_frame(
      c, i, weights.linear(name + "qkv_proj", i, rows, c.hidden_size),
      weights.linear(name + "o_proj", i, c.hidden_size, c.n_heads * c.head_dim));
}

Mlp load_packed_mlp(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".mlp.";
  const int hidden = c.hidden_size, inner = c.intermediate_size;
  return {weights.linear(name + "gate_up_proj", i, 2 * inner, hidden), std::nullopt,
          weights.linear(name + "down_proj", i, hidden, inner), c.mlp_gate};
}

}  // namespace

std::unique_ptr<Model> build_phi3(Weights& weights) {
  return build_decoder(
      weights, [&](int i) { return load_packed_attention(weights, i); },
      [&](int i) { return load_packed_mlp(weights, i); });
}

}  // namespace optiq::models
