#include "optiq/models/decoder.h"

#include "mlx/ops.h"
#include "optiq/kernels/embedding/embedding_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"
#include "optiq/models/rope_frequencies.h"

namespace optiq::models {
namespace {

std::int64_t bytes_of(const kernels::LinearWeight& w) {
  std::int64_t bytes = static_cast<std::int64_t>(w.weight.nbytes());
  for (const auto& part : {w.scales, w.biases, w.bias})
    if (part) bytes += static_cast<std::int64_t>(part->nbytes());
  return bytes;
}

cache::LayerShape shape_of(const SelfAttention& attention) {
  return {.n_kv_heads = attention.n_kv_heads, .head_dim = attention.head_dim};
}

cache::LayerShape shape_of(const GatedDeltaNet& net) {
  return {.conv_kernel = net.conv.shape(1),
          .conv_channels = net.conv.shape(0),
          .n_value_heads = net.n_value_heads,
          .key_dim = net.key_dim,
          .value_dim = net.value_dim};
}

std::vector<LinearModule*> modules_of(SelfAttention& a) {
  return {&a.q, &a.k, &a.v, &a.o};
}

std::vector<LinearModule*> modules_of(GatedDeltaNet& n) {
  return {&n.in_qkv, &n.in_z, &n.in_b, &n.in_a, &n.out};
}

}  // namespace

Decoder::Decoder(checkpoint::ModelConfig config, LinearModule embedding,
                 std::vector<DecoderLayer> layers, mx::array norm,
                 std::optional<LinearModule> head)
    : config_(std::move(config)),
      embedding_(std::move(embedding)),
      layers_(std::move(layers)),
      norm_(std::move(norm)),
      head_(std::move(head)) {
  for (const DecoderLayer& layer : layers_)
    shapes_.push_back(
        std::visit([](const auto& mixer) { return shape_of(mixer); }, layer.mixer));
}

mx::array Decoder::embed(const mx::array& ids) {
  return kernels::embedding(ids, embedding_.weight);
}

mx::array Decoder::layer(int i, const mx::array& x, const Batch& batch) {
  const DecoderLayer& layer = layers_[static_cast<std::size_t>(i)];
  const LayerCall call{i, batch, observer_};
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const mx::array normed = kernels::rms_norm(x, layer.input_norm, eps);
  const mx::array mixed = std::visit(
      [&](const auto& mixer) { return mixer(normed, x, call); }, layer.mixer);
  return layer.mlp(kernels::rms_norm(mixed, layer.post_norm, eps), mixed, call);
}

mx::array Decoder::final_norm(const mx::array& x) {
  return kernels::rms_norm(x, norm_, static_cast<float>(config_.rms_norm_eps));
}

mx::array Decoder::head(const mx::array& x, kernels::Activation activation) {
  const LinearModule& module = output();
  const mx::array normed = final_norm(x);
  if (observer_) observer_(module, normed);
  return kernels::linear(normed, module.weight, {activation, std::nullopt});
}

std::function<mx::array(const mx::array&)> Decoder::reference_head() const {
  return [norm = norm_, weight = output().weight,
          eps = static_cast<float>(config_.rms_norm_eps)](const mx::array& x) {
    return kernels::linear(kernels::rms_norm(x, norm, eps), weight,
                           {kernels::Activation::kExact, std::nullopt});
  };
}

std::vector<LinearModule*> Decoder::linears() {
  std::vector<LinearModule*> all{&embedding_};
  for (DecoderLayer& layer : layers_) {
    const auto mixer = std::visit([](auto& m) { return modules_of(m); }, layer.mixer);
    all.insert(all.end(), mixer.begin(), mixer.end());
    all.insert(all.end(), {&layer.mlp.gate, &layer.mlp.up, &layer.mlp.down});
  }
  if (head_) all.push_back(&*head_);
  return all;
}

std::int64_t Decoder::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const LinearModule* module : const_cast<Decoder*>(this)->linears())
    bytes += bytes_of(module->weight);
  return bytes;
}

SelfAttention load_attention(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".self_attn.";
  const int q_rows = c.n_heads * c.head_dim, kv_rows = c.n_kv_heads * c.head_dim;
  const RopeFrequencies rope = rope_frequencies(c);
  const auto norm = [&](const char* which) -> std::optional<mx::array> {
    if (!c.qk_norm) return std::nullopt;
    return weights.norm(name + which, c.head_dim);
  };
  return {
      .q = weights.linear(name + "q_proj", i, c.attn_output_gate ? 2 * q_rows : q_rows,
                          c.hidden_size, c.qkv_bias),
      .k = weights.linear(name + "k_proj", i, kv_rows, c.hidden_size, c.qkv_bias),
      .v = weights.linear(name + "v_proj", i, kv_rows, c.hidden_size, c.qkv_bias),
      .o = weights.linear(name + "o_proj", i, c.hidden_size, q_rows, c.o_bias),
      .q_norm = norm("q_norm"),
      .k_norm = norm("k_norm"),
      .inverse_frequency = rope.inverse_frequency,
      .rope_scale = rope.scale,
      .eps = static_cast<float>(c.rms_norm_eps),
      .n_heads = c.n_heads,
      .n_kv_heads = c.n_kv_heads,
      .head_dim = c.head_dim,
      .window = c.layer_types[static_cast<std::size_t>(i)] ==
                        checkpoint::LayerType::kSlidingAttention
                    ? c.sliding_window
                    : 0,
      .gated = c.attn_output_gate,
  };
}

Mlp load_mlp(const Weights& weights, int i) {
  const auto& c = weights.config();
  const std::string name = "layers." + std::to_string(i) + ".mlp.";
  const int hidden = c.hidden_size, inner = c.intermediate_size;
  return {weights.linear(name + "gate_proj", i, inner, hidden, c.mlp_bias),
          weights.linear(name + "up_proj", i, inner, hidden, c.mlp_bias),
          weights.linear(name + "down_proj", i, hidden, inner, c.mlp_bias)};
}

}  // namespace optiq::models
