// Qwen3.5: three gated delta nets to each full attention, whose output is gated. The
// Hugging Face form stores its norms (but not the delta net's own) less one.
#include <variant>

#include "optiq/models/registry.h"

namespace optiq::models {
namespace {

GatedDeltaNet load_delta_net(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".linear_attn.";
  const auto& linear = c.linear;
  const int key_rows = linear.n_key_heads * linear.key_head_dim;
  const int value_rows = linear.n_value_heads * linear.value_head_dim;
  const int channels = 2 * key_rows + value_rows;
  const int hidden = c.hidden_size, heads = linear.n_value_heads;
  return {
      .in_qkv = weights.linear(name + "in_proj_qkv", i, channels, hidden),
      .in_z = weights.linear(name + "in_proj_z", i, value_rows, hidden),
      .in_b = weights.linear(name + "in_proj_b", i, heads, hidden),
      .in_a = weights.linear(name + "in_proj_a", i, heads, hidden),
      .out = weights.linear(name + "out_proj", i, hidden, value_rows),
      .conv = weights.conv(name + "conv1d.weight", channels, linear.conv_kernel_dim),
      .a_log = weights.vector(name + "A_log", heads),
      .dt_bias = weights.vector(name + "dt_bias", heads),
      .norm = weights.vector(name + "norm.weight", linear.value_head_dim),
      .eps = static_cast<float>(c.rms_norm_eps),
      .n_key_heads = linear.n_key_heads,
      .n_value_heads = heads,
      .key_dim = linear.key_head_dim,
      .value_dim = linear.value_head_dim,
  };
}

}  // namespace

std::unique_ptr<Model> build_qwen3_5(Weights& weights) {
  weights.set_norms_less_one(!weights.mlx_form());
  const auto& config = weights.config();
  return build_decoder(weights,
                       [&](int i) -> std::variant<SelfAttention, GatedDeltaNet> {
                         if (config.layer_types[static_cast<std::size_t>(i)] ==
                             checkpoint::LayerType::kLinearAttention)
                           return load_delta_net(weights, i);
                         return load_attention(weights, i);
                       });
}

}  // namespace optiq::models
