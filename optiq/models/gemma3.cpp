// Gemma 3: most layers see a window and turn by frequencies of their own; what a block
// adds is normed too; norms are stored less one in both forms.
#include <bit>
#include <cmath>

#include "optiq/models/registry.h"

namespace optiq::models {
namespace {

// As bfloat16 holds it: mlx-lm multiplies so whatever the weights' type, transformers
// only where they are bfloat16 themselves.
float as_bfloat16(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  bits += 0x7fff + (bits >> 16 & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

}  // namespace

std::unique_ptr<Model> build_gemma3(Weights& weights) {
  weights.set_norms_less_one(true);
  const auto& c = weights.config();
  const int hidden = c.hidden_size;
  std::vector<DecoderLayer> layers;
  for (int i = 0; i < c.num_hidden_layers; ++i) {
    const auto norm = [&](const char* which) {
      return weights.norm("layers." + std::to_string(i) + "." + which, hidden);
    };
    SelfAttention attention = load_attention(weights, i);
    if (c.is_sliding(i)) attention.rope = rope_frequencies(c.gemma.sliding_rope);
    attention.scale = 1 / std::sqrt(static_cast<float>(c.gemma.query_pre_attn_scalar));
    layers.push_back({.input_norm = norm("input_layernorm"),
                      .mixer = std::move(attention),
                      .mixed_norm = norm("post_attention_layernorm"),
                      .mlp_norm = norm("pre_feedforward_layernorm"),
                      .mlp = load_mlp(weights, i),
                      .mlp_out_norm = norm("post_feedforward_layernorm")});
  }
  DecoderParts parts = load_ends(weights, std::move(layers));
  const float scale = std::sqrt(static_cast<float>(hidden));
  parts.embedding_scale = weights.mlx_form() ? as_bfloat16(scale) : scale;
  parts.softcap = static_cast<float>(c.gemma.final_logit_softcapping);
  return std::make_unique<Decoder>(c, std::move(parts));
}

}  // namespace optiq::models
