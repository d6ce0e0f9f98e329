#include "optiq/sensitivity/measure.h"

#include <algorithm>

#include "optiq/base/error.h"
#include "optiq/quantize/linear_weight.h"

namespace optiq::sensitivity {
namespace {

double mean_of_first(const std::vector<double>& values, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += values[i];
  return sum / static_cast<double>(n);
}

// One layer at every format; its weight is restored at the end.
LayerSensitivity measure_layer(models::LinearModule& module, DivergenceMeter& meter,
                               const InputStatistics& statistics,
                               const MeasureOptions& options) {
  const kernels::LinearWeight in_place = module.weight;
  const kernels::LinearWeight original =
      options.own_weights ? options.own_weights(module.path) : in_place;
  const int N = original.output_dim(), K = original.input_dim();
  const std::vector<float> importance = statistics.mean_squares(module.path);
  const double norm = std::max(squared_norm(original, importance), 1e-30);
  LayerSensitivity layer{
      module.path, module.layer, static_cast<std::int64_t>(N) * K, {}};

  const auto diverge = [&](const QuantSpec& spec, int windows, FormatCost& cost) {
    quantize::EncodedTensor tensor =
        quantize::encode(original, spec, importance, options.search);
    cost = {spec, tensor.bytes(), 0, 0, tensor.error / norm};
    module.weight = quantize::as_linear_weight(std::move(tensor), original.bias);
    const Divergence d = meter.measure({windows, /*every_second_token=*/true});
    module.weight = in_place;
    return d;
  };

  std::vector<QuantSpec> formats;
  for (const QuantSpec& spec : options.formats)
    if (quantize::fits(spec, K)) formats.push_back(spec);
  if (formats.empty()) return layer;
  if (options.own_weights) {
    module.weight = original;
    meter.rebase({options.anchor_windows, /*every_second_token=*/true});
    module.weight = in_place;
  }
  const std::size_t anchor = anchor_format(formats);
  FormatCost cost;
  const Divergence whole = diverge(formats[anchor], options.anchor_windows, cost);
  cost.kl = whole.mean;
  cost.kl_error = whole.standard_error();
  const FormatCost anchor_cost = cost;

  const int n_anchor = static_cast<int>(whole.window_means.size());
  const int windows =
      options.ratio_windows > 0 ? std::min(options.ratio_windows, n_anchor) : n_anchor;
  for (std::size_t f = 0; f < formats.size(); ++f) {
    if (f == anchor) {
      layer.formats.push_back(anchor_cost);
      continue;
    }
    const Divergence d = diverge(formats[f], windows, cost);
    const double part = mean_of_first(whole.window_means, d.window_means.size());
    const double scale = part > 0 ? whole.mean / part : 1;
    cost.kl = d.mean * scale;
    cost.kl_error = d.standard_error() * scale;
    layer.formats.push_back(cost);
  }
  return layer;
}

}  // namespace

double squared_norm(const kernels::LinearWeight& w,
                    const std::vector<float>& importance) {
  double sum = 0;
  quantize::for_each_row_block(w, [&](int, std::span<const float> values) {
    for (std::size_t i = 0; i < values.size(); ++i)
      sum += static_cast<double>(values[i]) * values[i] *
             (importance.empty() ? 1.0 : importance[i % importance.size()]);
  });
  return sum;
}

std::size_t anchor_format(const std::vector<QuantSpec>& formats) {
  for (std::size_t f = 0; f < formats.size(); ++f)
    if (formats[f].bits == 4) return f;
  return 0;
}

Sensitivities measure(models::Model& model, DivergenceMeter& meter,
                      const InputStatistics& statistics,
                      const MeasureOptions& options) {
  OPTIQ_CHECK(!options.formats.empty(), "a measurement needs formats");
  Sensitivities result;
  result.method = "optiq";
  result.tokens = meter.n_tokens();
  const auto modules = model.linears();
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const auto known = options.known.find(modules[i]->path);
    if (known != options.known.end()) {
      result.layers.push_back(known->second);
    } else {
      meter.advance_to(modules[i]->layer);
      result.layers.push_back(measure_layer(*modules[i], meter, statistics, options));
    }
    if (options.on_layer) options.on_layer(result.layers.back(), i + 1, modules.size());
  }
  return result;
}

const char* name(Reference reference) {
  return reference == Reference::kBf16 ? "bf16" : "uniform_4bit";
}

}  // namespace optiq::sensitivity
