#include "optiq/models/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/kernels/host_primitive.h"

namespace optiq::models {
namespace {

// The module with its weights where kernels read them.
LinearModule placed(LinearModule module) {
  kernels::LinearWeight& w = module.weight;
  w.weight = kernels::beside_kernels(w.weight);
  for (auto* part : {&w.scales, &w.biases, &w.bias})
    if (*part) *part = kernels::beside_kernels(**part);
  return module;
}

}  // namespace

Weights::Weights(checkpoint::Checkpoint checkpoint)
    : checkpoint_(std::move(checkpoint)),
      config_(checkpoint::model_config(checkpoint_)),
      quantization_(checkpoint::parse_quantization(
          checkpoint_.config(), checkpoint_.directory() / "config.json")),
      names_(checkpoint::find_text_names(checkpoint_)),
      mlx_form_(checkpoint::is_mlx_form(checkpoint_)) {}

LinearModule Weights::linear(const std::string& name, int layer, int N, int K,
                             bool with_bias) const {
  return module(names_(name), name, layer, N, K, with_bias);
}

LinearModule Weights::experts(const std::string& name, int layer, int E, int N,
                              int K) const {
  const std::string path = names_(name);
  const auto quantized = checkpoint::module_quantization(
      checkpoint_, quantization_ ? &*quantization_ : nullptr, path, K);
  if (std::int64_t{E} * std::max(N, K) > std::numeric_limits<int>::max())
    throw CheckpointError(
        fmt::format("{}: module {}: {} experts of {} x {} are too many",
                    checkpoint_.directory().string(), path, E, N, K));
  const auto stacked = [&](const char* part, int columns) {
    mx::array all = mx::reshape(checkpoint_.require(path + part, {E, N, columns}),
                                {E * N, columns});
    mx::eval(all);
    return all;
  };
  if (!quantized)
    return placed({path, name, layer, {stacked(".weight", K), {}, {}, {}, {}}, E});
  const QuantSpec spec = quantized->spec;
  const QuantModeInfo& mode = info(spec.mode);
  const int groups = K / spec.group_size;
  kernels::LinearWeight w{stacked(".weight", K * spec.bits / 32),
                          stacked(".scales", groups), std::nullopt, std::nullopt, spec};
  if (mode.has_biases) w.biases = stacked(".biases", groups);
  if (!mode.float_scales) checkpoint_.check_scales(path + ".scales", spec.mode);
  return placed({path, name, layer, std::move(w), E});
}

LinearModule Weights::head(int N, int K) const {
  if (names_.lm_head.empty())
    throw CheckpointError(fmt::format(
        "{}: expected lm_head.weight (tie_word_embeddings is false), it is missing",
        checkpoint_.directory().string()));
  return module(names_.lm_head, "lm_head", config_.num_hidden_layers, N, K, false);
}

LinearModule Weights::module(const std::string& path, const std::string& name,
                             int layer, int N, int K, bool with_bias) const {
  const auto quantized = checkpoint::module_quantization(
      checkpoint_, quantization_ ? &*quantization_ : nullptr, path, K);
  // Evaluated here and below: what a thread leaves undone, no other one can do.
  std::optional<mx::array> bias;
  if (with_bias) {
    bias = mx::astype(kernels::beside_kernels(checkpoint_.require(path + ".bias", {N})),
                      mx::float32);
    mx::eval(*bias);
  }
  if (!quantized)
    return placed({path,
                   name,
                   layer,
                   {checkpoint_.require(path + ".weight", {N, K}), {}, {}, bias, {}}});

  const QuantSpec spec = quantized->spec;
  const QuantModeInfo& mode = info(spec.mode);
  const int groups = K / spec.group_size;
  kernels::LinearWeight w{
      checkpoint_.require(path + ".weight", {N, K * spec.bits / 32}),
      checkpoint_.require(path + ".scales", {N, groups}), std::nullopt, bias, spec};
  if (mode.has_biases) w.biases = checkpoint_.require(path + ".biases", {N, groups});
  if (!mode.float_scales) checkpoint_.check_scales(path + ".scales", spec.mode);
  return placed({path, name, layer, std::move(w)});
}

mx::array Weights::vector(const std::string& name, int n) const {
  mx::array values = mx::astype(
      kernels::beside_kernels(checkpoint_.require(names_(name), {n})), mx::float32);
  mx::eval(values);
  return values;
}

mx::array Weights::norm(const std::string& name, int n) const {
  mx::array values = vector(name + ".weight", n);
  if (norms_less_one_) values = values + 1.0f;
  mx::eval(values);
  return values;
}

mx::array Weights::conv(const std::string& name, int channels, int kernel) const {
  const mx::array stored = kernels::beside_kernels(
      mlx_form_ ? checkpoint_.require(names_(name), {channels, kernel, 1})
                : checkpoint_.require(names_(name), {channels, 1, kernel}));
  mx::array values = mx::astype(mx::reshape(stored, {channels, kernel}), mx::float32);
  mx::eval(values);
  return values;
}

}  // namespace optiq::models
