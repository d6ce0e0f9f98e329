#include "optiq/sensitivity/gradient_costs.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/quantize/linear_weight.h"
#include "optiq/quantize/moments.h"
#include "optiq/sensitivity/backward_walk.h"
#include "optiq/sensitivity/change_costs.h"
#include "optiq/sensitivity/row_sample.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using models::LinearModule;

constexpr std::int64_t kFewestRows = 256;

// With moments the work of a row goes by K^2, without, a sixteenth of it, by K.
std::int64_t sampled_rows(const GradientCostOptions& options,
                          const kernels::LinearWeight& w, bool by_moments) {
  const std::int64_t N = w.output_dim(), K = w.input_dim();
  const std::int64_t of_row = by_moments ? K * K : 16 * K;
  return N * of_row <= options.work ? N
                                    : std::max(kFewestRows, options.work / 4 / of_row);
}

// The matrix at a format less the matrix, float32 [N, K].
mx::array change_of(const kernels::LinearWeight& original,
                    const kernels::LinearWeight& coded) {
  const auto wide = [](const kernels::LinearWeight& w) {
    return w.quantized() ? kernels::dequantized(w) : mx::astype(w.weight, mx::float32);
  };
  mx::array change = wide(coded) - wide(original);
  mx::eval(change);
  return change;
}

// Formats of one width tell of each other, and of all wider ones: from here on errors
// fall with the step of the codes alone.
constexpr int kToldOfOthers = 4;

// The format, by its place, from whose measured cost that of specs[f] is told: one of
// as many bits, up to kToldOfOthers.
std::size_t told_by(const std::vector<QuantSpec>& specs, std::size_t f) {
  const int bits = std::min(specs[f].bits, kToldOfOthers);
  for (std::size_t i = 0; i < specs.size(); ++i)
    if (specs[i].mode == specs[f].mode && specs[i].bits >= bits) return i;
  return f;
}

// One matrix at every format: bytes and errors, and what `cost` says of the changes of
// its sampled rows. With H, the moments of its inputs, or null, only formats that tell
// of others are encoded and measured; the others' costs are to those as the errors
// without H are to each other.
template <class Cost>
LayerSensitivity at_formats(const LinearModule& module, const RowSample& sample,
                            const InputStatistics& statistics,
                            const GradientCostOptions& options,
                            const quantize::Moments* H, Cost&& cost) {
  if (const auto known = options.known.find(module.path);
      known != options.known.end()) {
    if (options.on_costs) options.on_costs(known->second);
    return known->second;
  }
  const kernels::LinearWeight& whole = module.weight;
  const int N = whole.output_dim(), K = whole.input_dim();
  LayerSensitivity layer{
      module.path, module.layer, static_cast<std::int64_t>(N) * K, {}};
  LinearModule part = module;
  part.weight = rows_of(whole, sample);
  const std::vector<float> importance = statistics.mean_squares(module.path);
  const double norm = std::max(squared_norm(part.weight, importance), 1e-30);
  const bool by_moments = options.encode && H;
  std::vector<QuantSpec> specs;
  for (const QuantSpec& spec : options.formats)
    if (quantize::fits(spec, K)) specs.push_back(spec);

  std::vector<std::size_t> teller(specs.size());
  std::vector<QuantSpec> telling;  // the tellers' formats
  for (std::size_t f = 0; f < specs.size(); ++f) {
    teller[f] = by_moments ? told_by(specs, f) : f;
    if (teller[f] == f) telling.push_back(specs[f]);
  }
  std::vector<quantize::EncodedTensor> tensors(specs.size());
  std::vector<double> errors(specs.size());
  throw_if_interrupted();
  if (by_moments) {
    auto made = options.encode(part, telling, *H);
    for (std::size_t f = 0, i = 0; f < specs.size(); ++f)
      if (teller[f] == f) tensors[f] = std::move(made[i++]);
  }
  for (std::size_t f = 0; f < specs.size(); ++f) {
    throw_if_interrupted();
    auto searched = quantize::encode(part.weight, specs[f], importance, options.search);
    errors[f] = searched.error;
    if (!by_moments) tensors[f] = std::move(searched);
  }
  Arrays changes;
  for (std::size_t f = 0; f < specs.size(); ++f) {
    layer.formats.push_back(
        {specs[f],
         quantize::encoded_bytes(specs[f], N, K, quantize::scale_type_of(whole)), 0, 0,
         errors[f] / norm});
    if (teller[f] != f) continue;
    changes.push_back(change_of(
        part.weight, quantize::as_linear_weight(std::move(tensors[f]), whole.bias)));
  }
  const Costs costs = cost(changes);
  for (std::size_t f = 0, i = 0; f < specs.size(); ++f)
    if (teller[f] == f) layer.formats[f].kl = costs[i++];
  for (std::size_t f = 0; f < specs.size(); ++f)
    if (teller[f] != f && errors[teller[f]] > 0)
      layer.formats[f].kl = layer.formats[teller[f]].kl * errors[f] / errors[teller[f]];
  if (options.on_costs) options.on_costs(layer);
  return layer;
}

// Costs of experts, and of what no gradient reached, by those of the layer's others.
void fill_unreached(std::vector<LayerSensitivity*>& layers,
                    const std::set<std::string>& reached) {
  double kl = 0, error = 0;
  for (const LayerSensitivity* layer : layers)
    if (reached.contains(layer->name))
      for (const FormatCost& cost : layer->formats) {
        kl += cost.kl;
        error += cost.weight_error;
      }
  for (LayerSensitivity* layer : layers)
    if (!reached.contains(layer->name))
      for (FormatCost& cost : layer->formats)
        cost.kl = error > 0 ? cost.weight_error * kl / error : cost.weight_error;
}

// Scales costs so that those of the anchor format sum to what was measured.
void scale_to(std::vector<LayerSensitivity*>& layers, double measured) {
  double estimated = 0;
  for (const LayerSensitivity* layer : layers) {
    std::vector<QuantSpec> specs;
    for (const FormatCost& cost : layer->formats) specs.push_back(cost.spec);
    if (!specs.empty()) estimated += layer->formats[anchor_format(specs)].kl;
  }
  if (!(estimated > 0) || !(measured > 0)) return;
  for (LayerSensitivity* layer : layers)
    for (FormatCost& cost : layer->formats) cost.kl *= measured / estimated;
}

}  // namespace

Sensitivities gradient_costs(models::Model& model, DivergenceMeter& meter,
                             const std::vector<std::vector<int>>& windows,
                             const InputStatistics& statistics,
                             const GradientCostOptions& options) {
  OPTIQ_CHECK(!options.formats.empty(), "costs need formats");
  const int n_layers = model.n_layers();
  BackwardWalk walk(model, windows, options.input_bytes);
  walk.back_through_head(options.seed);
  const auto tokens = static_cast<double>(walk.tokens());
  const LinearModule& output = model.output();

  std::map<int, std::vector<LinearModule*>> by_layer;
  for (LinearModule* module : model.linears())
    by_layer[module->layer].push_back(module);
  std::map<std::string, LayerSensitivity> costs;
  std::set<std::string> reached;
  std::size_t done = 0;
  const std::size_t total = 2 * static_cast<std::size_t>(n_layers);
  const auto tell = [&] {
    if (options.on_layer) options.on_layer(++done, total);
  };
  const auto per_token = [&](Costs sums) {
    for (double& sum : sums) sum /= tokens;
    return sums;
  };
  const auto add = [&](const LinearModule& module, const RowSample& sample,
                       const quantize::Moments* H, auto&& cost) {
    costs.emplace(module.path,
                  at_formats(module, sample, statistics, options, H, cost));
  };
  std::optional<quantize::Moments> of_head;
  if (options.encode) {
    of_head.emplace(output.weight.input_dim());
    for (const Trip& trip : walk.trips())
      of_head->add(model.final_norm(trip.inputs.back()));
  }
  const RowSample of_tokens = frequent_rows(
      walk.counts(), sampled_rows(options, output.weight, of_head.has_value()));
  if (output.layer == n_layers) {
    reached.insert(output.path);
    add(output, of_tokens, of_head ? &*of_head : nullptr, [&](const Arrays& changes) {
      return per_token(costs_in_head(model, walk.trips(), of_tokens, changes));
    });
  }
  for (int i = n_layers - 1; i >= 0; --i) {
    const SeenByPath seen = walk.back_through(i);
    std::map<std::uintptr_t, quantize::Moments> moments;  // of inputs that several have
    for (const LinearModule* module : by_layer[i]) {
      const auto found = seen.find(module->path);
      const kernels::LinearWeight& w = module->weight;
      if (found == seen.end()) {
        add(*module, even_rows(w.output_dim(), sampled_rows(options, w, false)),
            nullptr, [](const Arrays& changes) { return Costs(changes.size(), 0.0); });
        continue;
      }
      reached.insert(module->path);
      const quantize::Moments* H = nullptr;
      if (options.encode) {
        const Arrays& inputs = found->second.x;
        const auto [at, is_new] = moments.try_emplace(inputs[0].id(), w.input_dim());
        for (std::size_t t = 0; is_new && t < inputs.size(); ++t)
          at->second.add(inputs[t]);
        H = &at->second;
      }
      const RowSample sample =
          even_rows(w.output_dim(), sampled_rows(options, w, H != nullptr));
      add(*module, sample, H, [&](const Arrays& changes) {
        return per_token(costs_in_layer(found->second, sample, changes));
      });
    }
    tell();
  }
  for (const LinearModule* module : by_layer[LinearModule::kEmbedding]) {
    const int N = module->weight.output_dim();
    // The one whose rows go into the first layer.
    if (module != by_layer[LinearModule::kEmbedding].front()) {
      add(*module, even_rows(N, sampled_rows(options, module->weight, false)), nullptr,
          [](const Arrays& changes) { return Costs(changes.size(), 0.0); });
      continue;
    }
    reached.insert(module->path);
    const bool is_head = module == &output;
    add(*module, of_tokens, is_head && of_head ? &*of_head : nullptr,
        [&](const Arrays& changes) {
          Costs sums = costs_of_lookup(walk.trips(), of_tokens, N, changes);
          if (is_head) {
            const Costs more = costs_in_head(model, walk.trips(), of_tokens, changes);
            for (std::size_t f = 0; f < sums.size(); ++f) sums[f] += more[f];
          }
          return per_token(sums);
        });
  }

  // What no gradient reached is measured: all such matrices of a layer at once.
  const auto probe = [&](int layer, const std::vector<LinearModule*>& modules) {
    std::vector<LayerSensitivity*> part;
    std::vector<std::pair<LinearModule*, kernels::LinearWeight>> own;
    for (LinearModule* module : modules) {
      LayerSensitivity& cost = costs.at(module->path);
      if (reached.contains(module->path) || cost.formats.empty()) continue;
      part.push_back(&cost);
      own.emplace_back(module, module->weight);
      std::vector<QuantSpec> specs;
      for (const FormatCost& at : cost.formats) specs.push_back(at.spec);
      module->weight = quantize::as_linear_weight(
          quantize::encode(own.back().second, specs[anchor_format(specs)],
                           statistics.mean_squares(module->path), options.search),
          own.back().second.bias);
    }
    if (part.empty()) return;
    meter.advance_to(layer);
    const Divergence d =
        meter.measure({options.probe_windows, /*every_second_token=*/true});
    for (auto& [module, weight] : own) module->weight = std::move(weight);
    scale_to(part, d.mean);
  };

  Sensitivities result;
  result.method = "optiq";
  result.compensated = static_cast<bool>(options.encode);
  result.tokens = walk.tokens();
  for (int i = LinearModule::kEmbedding; i <= n_layers; ++i) {
    std::vector<LayerSensitivity*> layers;
    for (const LinearModule* module : by_layer[i])
      layers.push_back(&costs.at(module->path));
    if (layers.empty()) continue;
    fill_unreached(layers, reached);
    if (options.probe) probe(i, by_layer[i]);
    if (i >= 0 && i < n_layers) tell();
  }
  for (const LinearModule* module : model.linears())
    result.layers.push_back(std::move(costs.at(module->path)));
  return result;
}

}  // namespace optiq::sensitivity
