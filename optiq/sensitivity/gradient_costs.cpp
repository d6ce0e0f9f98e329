#include "optiq/sensitivity/gradient_costs.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/quantize/linear_weight.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using models::LinearModule;

constexpr auto kExact = kernels::Activation::kExact;
constexpr int kHeadRows = 128;  // rows of logits at a time

// One window on its way through the model and back.
struct Trip {
  mx::array ids;
  models::Batch batch;
  Arrays inputs;         // of each layer, then of the head
  mx::array back{0.0f};  // gradient by the input of what came last
};

// Inputs and gradients of one matrix's products, a window each.
struct Seen {
  Arrays x, g;
};
using SeenByPath = std::map<std::string, Seen>;

class Trips {
 public:
  Trips(models::Model& model, const std::vector<std::vector<int>>& windows,
        std::int64_t input_bytes)
      : model_(model) {
    std::int64_t held = 0;
    for (const auto& window : windows) {
      throw_if_interrupted();
      const int n = static_cast<int>(window.size());
      Trip trip{mx::array(window.data(), {n}, mx::int32),
                models::uncached_batch({n}, kExact),
                {}};
      trip.inputs.push_back(model_.embed(trip.ids));
      mx::eval(trip.inputs.back());
      held += (model_.n_layers() + 1) *
              static_cast<std::int64_t>(trip.inputs.back().nbytes());
      if (held > input_bytes && !trips_.empty()) break;
      tokens_ += n;
      trips_.push_back(std::move(trip));
    }
    for (int i = 0; i < model_.n_layers(); ++i)
      for (Trip& trip : trips_) {
        throw_if_interrupted();
        trip.inputs.push_back(model_.layer(i, trip.inputs.back(), trip.batch));
        mx::eval(trip.inputs.back());
      }
  }

  ~Trips() {
    model_.change_outputs(nullptr);
    model_.observe_inputs(nullptr);
  }
  Trips(const Trips&) = delete;
  Trips& operator=(const Trips&) = delete;

  std::int64_t tokens() const { return tokens_; }
  std::vector<Trip>& all() { return trips_; }

  // From tokens that the model draws back to the last layer's results.
  void back_through_head(std::uint64_t seed) {
    mx::array key = mx::random::key(seed);
    for (Trip& trip : trips_) {
      throw_if_interrupted();
      const mx::array& x = trip.inputs.back();
      Arrays parts;
      for (int begin = 0; begin < x.shape(0); begin += kHeadRows) {
        const int end = std::min(begin + kHeadRows, x.shape(0));
        const auto keys = mx::random::split(key);
        key = keys.first;
        const auto drawn_log_likelihood = [&](const Arrays& in) -> Arrays {
          const mx::array logits = model_.head(in[0], kExact);
          const mx::array drawn = mx::stop_gradient(mx::expand_dims(
              mx::random::categorical(mx::stop_gradient(logits), -1, keys.second), -1));
          return {mx::sum(mx::take_along_axis(logits, drawn, -1) -
                          mx::logsumexp(logits, -1, true))};
        };
        const mx::array rows = mx::slice(x, {begin, 0}, {end, x.shape(1)});
        parts.push_back(
            mx::vjp(drawn_log_likelihood, {rows}, {mx::array(1.0f)}).second[0]);
        mx::eval(parts.back());
      }
      trip.back = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
      mx::eval(trip.back);
    }
  }

  // Back through layer i; what its matrices have been given and what they owe.
  SeenByPath back_through(int i) {
    SeenByPath seen;
    for (Trip& trip : trips_) {
      throw_if_interrupted();
      back_through(i, trip, seen);
      // What went into layer i + 1 is done with; the head's input is asked for again.
      if (i + 1 < model_.n_layers())
        trip.inputs[static_cast<std::size_t>(i) + 1] = mx::array(0.0f);
    }
    return seen;
  }

 private:
  void back_through(int i, Trip& trip, SeenByPath& seen) {
    const mx::array x = trip.inputs[static_cast<std::size_t>(i)];
    // Zeros are added to every product: the gradients by them are those by the
    // products.
    std::vector<const LinearModule*> modules;
    Arrays primals{x};
    model_.change_outputs([&](const LinearModule& module, const mx::array& y) {
      modules.push_back(&module);
      primals.push_back(mx::zeros(y.shape()));
      return y;
    });
    model_.layer(i, x, trip.batch);
    std::map<const LinearModule*, std::size_t> place;
    for (std::size_t m = 0; m < modules.size(); ++m) place[modules[m]] = m + 1;
    std::map<const LinearModule*, std::size_t> given_at;  // in what function returns
    const auto function = [&](const Arrays& in) -> Arrays {
      Arrays inputs;  // each once, however many modules it is given to
      model_.change_outputs([&](const LinearModule& module, const mx::array& y) {
        return y + in[place.at(&module)];
      });
      model_.observe_inputs([&](const LinearModule& module, const mx::array& given) {
        const auto same = [&](const mx::array& x) { return x.id() == given.id(); };
        const auto known = std::ranges::find_if(inputs, same);
        given_at[&module] = static_cast<std::size_t>(known - inputs.begin()) + 1;
        if (known == inputs.end()) inputs.push_back(given);
      });
      Arrays outputs{model_.layer(i, in[0], trip.batch)};
      for (const mx::array& x : inputs) outputs.push_back(mx::stop_gradient(x));
      model_.observe_inputs(nullptr);
      return outputs;
    };
    // Stopped outputs take no cotangent.
    auto [outputs, gradients] = mx::vjp(function, primals, {trip.back});
    model_.change_outputs(nullptr);
    Arrays all = gradients;
    all.insert(all.end(), outputs.begin() + 1, outputs.end());
    mx::eval(std::move(all));
    for (std::size_t m = 0; m < modules.size(); ++m) {
      Seen& of_module = seen[modules[m]->path];
      of_module.x.push_back(outputs[given_at.at(modules[m])]);
      of_module.g.push_back(gradients[m + 1]);
    }
    trip.back = gradients[0];
  }

  models::Model& model_;
  std::vector<Trip> trips_;
  std::int64_t tokens_ = 0;
};

double half_sum_of_squares(const mx::array& terms) {
  return 0.5 * mx::sum(mx::square(terms)).item<float>();
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

double cost_in_layer(const Seen& seen, const mx::array& change) {
  double sum = 0;
  for (std::size_t i = 0; i < seen.x.size(); ++i)
    sum += half_sum_of_squares(
        mx::sum(seen.g[i] * mx::matmul(seen.x[i], mx::transpose(change)), -1));
  return sum;
}

// Of the output projection: the variance of the changes of logits under what the model
// says, which needs no drawn tokens.
double cost_in_head(models::Model& model, const std::vector<Trip>& trips,
                    const mx::array& change) {
  double sum = 0;
  for (const Trip& trip : trips) {
    throw_if_interrupted();
    const mx::array& x = trip.inputs.back();
    for (int begin = 0; begin < x.shape(0); begin += kHeadRows) {
      const mx::array rows = mx::slice(
          x, {begin, 0}, {std::min(begin + kHeadRows, x.shape(0)), x.shape(1)});
      const mx::array p =
          mx::softmax(model.head(rows, kExact), std::vector<int>{-1}, true);
      const mx::array d = mx::matmul(model.final_norm(rows), mx::transpose(change));
      const mx::array mean = mx::sum(p * d, -1, true);
      sum += 0.5 * mx::sum(p * mx::square(d - mean)).item<float>();
    }
  }
  return sum;
}

// Of rows that are looked up, with the gradient by what goes into the first layer.
double cost_of_lookup(const std::vector<Trip>& trips, const mx::array& change) {
  double sum = 0;
  for (const Trip& trip : trips) {
    const int K = change.shape(1);
    const mx::array g = mx::slice(trip.back, {0, 0}, {trip.back.shape(0), K});
    sum += half_sum_of_squares(mx::sum(g * mx::take(change, trip.ids, 0), -1));
  }
  return sum;
}

// sum x x^T [K, K]
mx::array second_moments(const Arrays& inputs) {
  std::optional<mx::array> sum;
  for (const mx::array& x : inputs) {
    const mx::array product = mx::matmul(mx::transpose(x), x);
    sum = mx::contiguous(sum ? *sum + product : product);
    mx::eval(*sum);
  }
  return *sum;
}

// What the head is given.
Arrays head_inputs(models::Model& model, const std::vector<Trip>& trips) {
  Arrays inputs;
  for (const Trip& trip : trips) {
    inputs.push_back(model.final_norm(trip.inputs.back()));
    mx::eval(inputs.back());
  }
  return inputs;
}

// Each matrix in its anchor format, by path.
using Anchors = std::map<std::string, kernels::LinearWeight>;

// One matrix at every format: bytes and errors, and what `cost` says of the change. H
// is a sum over `tokens`. Of a matrix whose costs are known only the anchor is encoded,
// if layers are to be measured in it.
template <class Cost>
LayerSensitivity at_formats(const LinearModule& module,
                            const InputStatistics& statistics,
                            const GradientCostOptions& options,
                            const std::optional<mx::array>& H, std::int64_t tokens,
                            Anchors& anchors, Cost&& cost) {
  const auto known = options.known.find(module.path);
  const kernels::LinearWeight& w = module.weight;
  const int N = w.output_dim(), K = w.input_dim();
  const std::vector<float> importance = statistics.mean_squares(module.path);
  const double norm = std::max(squared_norm(w, importance), 1e-30);
  LayerSensitivity layer{
      module.path, module.layer, static_cast<std::int64_t>(N) * K, {}};
  std::vector<QuantSpec> formats;
  for (const QuantSpec& spec : options.formats)
    if (quantize::fits(spec, K)) formats.push_back(spec);
  const bool by_moments = options.encode && H;
  for (std::size_t i = 0; i < formats.size(); ++i) {
    throw_if_interrupted();
    const QuantSpec& spec = formats[i];
    const bool is_anchor = options.probe && i == anchor_format(formats);
    if (known != options.known.end() && !is_anchor) continue;
    quantize::EncodedTensor tensor =
        by_moments ? options.encode(module, spec, {H->data<float>(), H->size()}, tokens)
                   : quantize::encode(w, spec, importance, options.search);
    FormatCost at{spec, tensor.bytes(), 0, 0, tensor.error / norm};
    const kernels::LinearWeight coded =
        quantize::as_linear_weight(std::move(tensor), w.bias);
    if (by_moments && options.on_encoded) options.on_encoded(module.path, spec, coded);
    if (is_anchor) anchors.emplace(module.path, coded);
    if (known != options.known.end()) continue;
    at.kl = cost(coded);
    layer.formats.push_back(at);
  }
  if (known != options.known.end()) layer = known->second;
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
  Trips trips(model, windows, options.input_bytes);
  trips.back_through_head(options.seed);
  const auto tokens = static_cast<double>(trips.tokens());
  const LinearModule& output = model.output();

  std::map<int, std::vector<LinearModule*>> by_layer;
  for (LinearModule* module : model.linears())
    by_layer[module->layer].push_back(module);
  std::map<std::string, LayerSensitivity> costs;
  std::set<std::string> reached;
  Anchors anchors;
  std::size_t done = 0;
  const std::size_t total =
      (options.probe ? 2 : 1) * static_cast<std::size_t>(n_layers);
  const auto tell = [&] {
    if (options.on_layer) options.on_layer(++done, total);
  };
  std::optional<mx::array> of_head;
  if (options.encode) of_head = second_moments(head_inputs(model, trips.all()));
  if (output.layer == n_layers) {
    reached.insert(output.path);
    costs.emplace(output.path,
                  at_formats(output, statistics, options, of_head, trips.tokens(),
                             anchors, [&](const auto& coded) {
                               return cost_in_head(model, trips.all(),
                                                   change_of(output.weight, coded)) /
                                      tokens;
                             }));
  }
  for (int i = n_layers - 1; i >= 0; --i) {
    const SeenByPath seen = trips.back_through(i);
    std::map<std::uintptr_t, mx::array> moments;  // of inputs that several have
    for (const LinearModule* module : by_layer[i]) {
      const auto found = seen.find(module->path);
      if (found != seen.end()) reached.insert(module->path);
      std::optional<mx::array> H;
      if (options.encode && found != seen.end()) {
        const Arrays& x = found->second.x;
        const auto known = moments.find(x[0].id());
        H = known != moments.end() ? known->second : second_moments(x);
        moments.emplace(x[0].id(), *H);
      }
      costs.emplace(module->path,
                    at_formats(*module, statistics, options, H, trips.tokens(), anchors,
                               [&](const auto& coded) {
                                 if (found == seen.end()) return 0.0;
                                 return cost_in_layer(
                                            found->second,
                                            change_of(module->weight, coded)) /
                                        tokens;
                               }));
    }
    tell();
  }
  for (const LinearModule* module : by_layer[LinearModule::kEmbedding]) {
    // The one whose rows go into the first layer.
    const bool is_table = module == by_layer[LinearModule::kEmbedding].front();
    if (is_table) reached.insert(module->path);
    costs.emplace(module->path,
                  at_formats(*module, statistics, options,
                             module == &output ? of_head : std::nullopt, trips.tokens(),
                             anchors, [&](const auto& coded) {
                               if (!is_table) return 0.0;
                               const mx::array change =
                                   change_of(module->weight, coded);
                               double sum = cost_of_lookup(trips.all(), change);
                               if (module == &output)
                                 sum += cost_in_head(model, trips.all(), change);
                               return sum / tokens;
                             }));
  }

  Sensitivities result;
  result.method = "optiq";
  result.compensated = static_cast<bool>(options.encode);
  result.tokens = trips.tokens();
  for (int i = LinearModule::kEmbedding; i <= n_layers; ++i) {
    std::vector<LayerSensitivity*> layers;
    for (const LinearModule* module : by_layer[i])
      layers.push_back(&costs.at(module->path));
    if (layers.empty()) continue;
    fill_unreached(layers, reached);
    if (!options.probe) continue;
    meter.advance_to(i);
    // Experts apart from the others: their share is not known, and their codes are
    // found in another way.
    for (const bool is_reached : {true, false}) {
      std::vector<LayerSensitivity*> part;
      std::vector<std::pair<LinearModule*, kernels::LinearWeight>> own;
      for (LinearModule* module : by_layer[i]) {
        const auto anchor = anchors.find(module->path);
        if (reached.contains(module->path) != is_reached || anchor == anchors.end())
          continue;
        part.push_back(&costs.at(module->path));
        own.emplace_back(module, module->weight);
        module->weight = std::move(anchor->second);
      }
      if (part.empty()) continue;
      const Divergence d =
          meter.measure({options.probe_windows, /*every_second_token=*/true});
      for (auto& [module, weight] : own) module->weight = std::move(weight);
      scale_to(part, d.mean);
    }
    if (i >= 0 && i < n_layers) tell();
  }
  for (const LinearModule* module : model.linears())
    result.layers.push_back(std::move(costs.at(module->path)));
  return result;
}

}  // namespace optiq::sensitivity
