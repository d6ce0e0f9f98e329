#include "optiq/models/decoder.h"

#include <algorithm>

#include "mlx/ops.h"
#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/embedding/embedding_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

namespace optiq::models {
namespace {

std::int64_t bytes_of(const kernels::LinearWeight& w) {
  std::int64_t bytes = static_cast<std::int64_t>(w.weight.nbytes());
  for (const auto& part : {w.scales, w.biases, w.bias})
    if (part) bytes += static_cast<std::int64_t>(part->nbytes());
  return bytes;
}

cache::LayerShape shape_of(const SelfAttention& attention) {
  if (attention.shares_with >= 0) return {};  // nothing of its own
  return {.n_kv_heads = attention.n_kv_heads, .head_dim = attention.head_dim};
}

cache::LayerShape shape_of(const GatedDeltaNet& net) {
  return {.conv_kernel = net.conv.shape(1),
          .conv_channels = net.conv.shape(0),
          .n_value_heads = net.n_value_heads,
          .key_dim = net.key_dim,
          .value_dim = net.value_dim};
}

using Modules = std::vector<LinearModule*>;

void add(Modules& all, std::optional<LinearModule>& module) {
  if (module) all.push_back(&*module);
}

void add_modules(Modules& all, SelfAttention& a) {
  all.push_back(&a.q);
  add(all, a.k);
  add(all, a.v);
  all.push_back(&a.o);
}

void add_modules(Modules& all, GatedDeltaNet& n) {
  all.insert(all.end(), {&n.in_qkv, &n.in_z, &n.in_b, &n.in_a, &n.out});
}

void add_modules(Modules& all, Mlp& mlp) {
  all.push_back(&mlp.gate);
  add(all, mlp.up);
  all.push_back(&mlp.down);
}

void add_modules(Modules& all, SparseMlp& mlp) {
  all.insert(all.end(), {&mlp.router, &mlp.gate, &mlp.up, &mlp.down});
  if (mlp.shared) add_modules(all, *mlp.shared);
  add(all, mlp.shared_gate);
}

void add_modules(Modules& all, ParallelExperts& experts) {
  all.insert(all.end(), {&experts.router, &experts.gate, &experts.up, &experts.down});
}

mx::array columns(const mx::array& x, int begin, int end) {
  return mx::slice(x, {0, begin}, {x.shape(0), end});
}

}  // namespace

Decoder::Decoder(checkpoint::ModelConfig config, DecoderParts parts)
    : config_(std::move(config)), parts_(std::move(parts)) {
  for (const DecoderLayer& layer : parts_.layers) {
    shapes_.push_back(
        std::visit([](const auto& mixer) { return shape_of(mixer); }, layer.mixer));
    if (const auto* attention = std::get_if<SelfAttention>(&layer.mixer);
        attention && attention->shares_with >= 0)
      shared_layers_.push_back(attention->shares_with);
  }
  std::ranges::sort(shared_layers_);
  const auto repeated = std::ranges::unique(shared_layers_);
  shared_layers_.erase(repeated.begin(), repeated.end());
}

Decoder::Stream Decoder::embedded(const mx::array& ids) {
  mx::array x = kernels::embedding(ids, parts_.embedding.weight);
  if (parts_.embedding_scale != 1)
    x = kernels::scaled_sum(x, std::nullopt, parts_.embedding_scale);
  Stream stream{x, std::nullopt, {}};
  if (parts_.per_layer) stream.inputs = (*parts_.per_layer)(ids, x, observer_);
  return stream;
}

void Decoder::run(int i, Stream& stream, const Batch& batch) {
  const DecoderLayer& layer = parts_.layers[static_cast<std::size_t>(i)];
  const LayerCall call{i,           batch, observer_, expert_observer_, query_observer_,
                       output_hook_};
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const auto mixer = [&](const mx::array& x,
                         const std::optional<mx::array>& residual) -> mx::array {
    const auto* attention = std::get_if<SelfAttention>(&layer.mixer);
    if (!attention) return std::get<GatedDeltaNet>(layer.mixer)(x, residual, call);
    std::optional<KeysValues> shared;
    if (const auto found = stream.shared.find(attention->shares_with);
        found != stream.shared.end())
      shared = found->second;
    const mx::array y = (*attention)(x, residual, call, shared);
    if (shared && std::ranges::binary_search(shared_layers_, i))
      stream.shared.insert_or_assign(i, *shared);
    return y;
  };
  // residual + f(x), what f gives normed where there is a norm for it.
  const auto added = [&](const mx::array& x, const mx::array& residual, auto&& f,
                         const std::optional<mx::array>& norm, float scale) {
    if (!norm) return f(x, std::optional(residual));
    const mx::array y = f(x, std::optional<mx::array>());
    return kernels::scaled_sum(residual, kernels::rms_norm(y, *norm, eps), scale);
  };
  const mx::array mixed = added(kernels::rms_norm(stream.x, layer.input_norm, eps),
                                stream.x, mixer, layer.mixed_norm, 1);
  const auto mlp = [&](const mx::array& x, const std::optional<mx::array>& residual) {
    const mx::array y =
        std::visit([&](const auto& m) { return m(x, residual, call); }, layer.mlp);
    return layer.experts ? (*layer.experts)(y, mixed, call) : y;
  };
  stream.x = added(kernels::rms_norm(mixed, layer.mlp_norm, eps), mixed, mlp,
                   layer.mlp_out_norm, layer.per_layer ? 1 : layer.scale);
  if (!layer.per_layer) return;
  const int P = parts_.per_layer->norm.shape(0);
  stream.x = (*layer.per_layer)(stream.x, columns(*stream.inputs, i * P, (i + 1) * P),
                                layer.scale, call);
}

mx::array Decoder::packed(const Stream& stream) const {
  if (!stream.inputs && stream.shared.empty()) return stream.x;
  std::vector<mx::array> parts{stream.x};
  if (stream.inputs) parts.push_back(*stream.inputs);
  const int T = stream.x.shape(0);
  for (const auto& [layer, kv] : stream.shared)
    for (const mx::array& a : {kv.keys, kv.values})
      parts.push_back(mx::reshape(a, {T, a.shape(1) * a.shape(2)}));
  return mx::concatenate(std::move(parts), 1);
}

Decoder::Stream Decoder::unpacked(const mx::array& wide, int next_layer) const {
  int at = config_.hidden_size;
  if (wide.shape(1) == at) return {wide, std::nullopt, {}};
  const auto next = [&](int width) {
    at += width;
    return columns(wide, at - width, at);
  };
  Stream stream{columns(wide, 0, at), std::nullopt, {}};
  if (parts_.per_layer)
    stream.inputs = next(parts_.per_layer->table.weight.input_dim());
  for (const int layer : shared_layers_) {
    if (layer >= next_layer || at == wide.shape(1)) break;
    const cache::LayerShape& shape = shapes_[static_cast<std::size_t>(layer)];
    const auto heads = [&] {
      return mx::reshape(next(shape.n_kv_heads * shape.head_dim),
                         {wide.shape(0), shape.n_kv_heads, shape.head_dim});
    };
    const mx::array keys = heads();
    stream.shared.emplace(layer, KeysValues{keys, heads()});
  }
  return stream;
}

mx::array Decoder::stream_columns(const mx::array& wide) const {
  return wide.shape(1) == config_.hidden_size ? wide
                                              : columns(wide, 0, config_.hidden_size);
}

mx::array Decoder::embed(const mx::array& ids) { return packed(embedded(ids)); }

mx::array Decoder::layer(int i, const mx::array& x, const Batch& batch) {
  Stream stream = unpacked(x, i);
  run(i, stream, batch);
  return packed(stream);
}

mx::array Decoder::hidden(const mx::array& ids, const Batch& batch) {
  Stream stream = embedded(ids);
  for (int i = 0; i < n_layers(); ++i) run(i, stream, batch);
  return stream.x;
}

mx::array Decoder::final_norm(const mx::array& x) {
  return kernels::rms_norm(stream_columns(x), parts_.norm,
                           static_cast<float>(config_.rms_norm_eps));
}

mx::array Decoder::head(const mx::array& x, kernels::Activation activation) {
  const LinearModule& module = output();
  const mx::array normed = final_norm(x);
  if (observer_) observer_(module, normed);
  const mx::array logits =
      kernels::linear(normed, module.weight, {activation, std::nullopt});
  return parts_.softcap > 0 ? kernels::softcap(logits, parts_.softcap) : logits;
}

std::function<mx::array(const mx::array&)> Decoder::reference_head() const {
  return [norm = parts_.norm, weight = output().weight, softcap = parts_.softcap,
          width = config_.hidden_size,
          eps = static_cast<float>(config_.rms_norm_eps)](const mx::array& x) {
    const mx::array stream = x.shape(1) == width ? x : columns(x, 0, width);
    const mx::array logits =
        kernels::linear(kernels::rms_norm(stream, norm, eps), weight,
                        {kernels::Activation::kExact, std::nullopt});
    return softcap > 0 ? kernels::softcap(logits, softcap) : logits;
  };
}

std::vector<LinearModule*> Decoder::linears() {
  Modules all{&parts_.embedding};
  if (parts_.per_layer)
    all.insert(all.end(), {&parts_.per_layer->table, &parts_.per_layer->projection});
  for (DecoderLayer& layer : parts_.layers) {
    std::visit([&](auto& m) { add_modules(all, m); }, layer.mixer);
    std::visit([&](auto& m) { add_modules(all, m); }, layer.mlp);
    if (layer.experts) add_modules(all, *layer.experts);
    if (layer.per_layer)
      all.insert(all.end(), {&layer.per_layer->gate, &layer.per_layer->projection});
  }
  add(all, parts_.head);
  return all;
}

std::int64_t Decoder::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const LinearModule* module : const_cast<Decoder*>(this)->linears())
    bytes += bytes_of(module->weight);
  return bytes;
}

}  // namespace optiq::models
