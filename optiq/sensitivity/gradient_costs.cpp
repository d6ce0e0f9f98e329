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
#include "optiq/sensitivity/row_sample.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using models::LinearModule;

constexpr auto kExact = kernels::Activation::kExact;
constexpr int kHeadRows = 128;  // rows of logits at a time

constexpr std::int64_t kFewestRows = 256;

// With moments the work of a row goes by K^2, without, a sixteenth of it, by K.
std::int64_t sampled_rows(const GradientCostOptions& options,
                          const kernels::LinearWeight& w, bool by_moments) {
  const std::int64_t N = w.output_dim(), K = w.input_dim();
  const std::int64_t of_row = by_moments ? K * K : 16 * K;
  return N * of_row <= options.work ? N
                                    : std::max(kFewestRows, options.work / 4 / of_row);
}

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
      : model_(model), counts_(static_cast<std::size_t>(model.config().vocab_size)) {
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
      count(trip.ids);
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

  // How often each token is read, and drawn from what the model says.
  std::span<const std::int64_t> counts() const { return counts_; }

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
                          mx::logsumexp(logits, -1, true)),
                  mx::stop_gradient(mx::astype(drawn, mx::int32))};
        };
        const mx::array rows = mx::slice(x, {begin, 0}, {end, x.shape(1)});
        // Stopped outputs take no cotangent.
        const auto [outputs, gradients] =
            mx::vjp(drawn_log_likelihood, {rows}, {mx::array(1.0f)});
        parts.push_back(gradients[0]);
        mx::eval(parts.back(), outputs[1]);
        count(outputs[1]);
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

  void count(const mx::array& ids) {
    const mx::array flat = mx::contiguous(mx::flatten(ids));
    mx::eval(flat);
    for (std::size_t i = 0; i < flat.size(); ++i)
      ++counts_[static_cast<std::size_t>(flat.data<std::int32_t>()[i])];
  }

  models::Model& model_;
  std::vector<Trip> trips_;
  std::vector<std::int64_t> counts_;  // [vocab_size]
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

// x by its rows in a sample, [T, N] -> [T, n].
mx::array columns_of(const mx::array& x, const RowSample& sample) {
  if (sample.is_all()) return x;
  return mx::take(
      x,
      mx::array(sample.rows.data(), {static_cast<int>(sample.rows.size())}, mx::int32),
      1);
}

// What each change of the sample's rows costs, summed over the tokens.
using Costs = std::vector<double>;

// Rows are taken to err by themselves: a sum over some of them stands for all.
Costs costs_in_layer(const Seen& seen, const RowSample& sample, const Arrays& changes) {
  const int F = static_cast<int>(changes.size());
  if (F == 0) return {};
  // One product for all formats: [T, K] by [K, F n].
  const mx::array all = mx::transpose(mx::concatenate(changes, 0));
  mx::array sums = mx::zeros({F});
  for (std::size_t i = 0; i < seen.x.size(); ++i) {
    const mx::array g = mx::expand_dims(columns_of(seen.g[i], sample), 1);
    const int T = g.shape(0), n = g.shape(2);
    const mx::array changed = mx::reshape(mx::matmul(seen.x[i], all), {T, F, n});
    sums = sums + mx::sum(mx::square(mx::sum(changed * g, -1)), 0);
    mx::eval(sums);
  }
  Costs costs;
  for (int f = 0; f < F; ++f)
    costs.push_back(0.5 * sample.scale * sums.data<float>()[f]);
  return costs;
}

// Of the output projection: the variance of the changes of logits under what the model
// says, which needs no drawn tokens. Of sampled rows, over the share of it that they
// have.
Costs costs_in_head(models::Model& model, const std::vector<Trip>& trips,
                    const RowSample& sample, const Arrays& changes) {
  Costs costs(changes.size(), 0.0);
  double covered = 0, tokens = 0;
  for (const Trip& trip : trips) {
    const mx::array& x = trip.inputs.back();
    for (int begin = 0; begin < x.shape(0); begin += kHeadRows) {
      throw_if_interrupted();
      const mx::array rows = mx::slice(
          x, {begin, 0}, {std::min(begin + kHeadRows, x.shape(0)), x.shape(1)});
      const mx::array p = columns_of(
          mx::softmax(model.head(rows, kExact), std::vector<int>{-1}, true), sample);
      const mx::array given = model.final_norm(rows);
      mx::eval(p, given);
      covered += sample.is_all() ? rows.shape(0) : mx::sum(p).item<float>();
      tokens += rows.shape(0);
      for (std::size_t f = 0; f < changes.size(); ++f) {
        const mx::array d = mx::matmul(given, mx::transpose(changes[f]));
        const mx::array mean = mx::sum(p * d, -1, true);
        costs[f] += 0.5 * mx::sum(p * mx::square(d - mean)).item<float>();
      }
    }
  }
  for (double& cost : costs) cost *= tokens / std::max(covered, 1e-6 * tokens);
  return costs;
}

// Of rows that are looked up, with the gradient by what goes into the first layer.
Costs costs_of_lookup(const std::vector<Trip>& trips, const RowSample& sample, int N,
                      const Arrays& changes) {
  std::vector<int> place(static_cast<std::size_t>(N), -1);  // in the sample
  for (int i = 0; i < N && sample.is_all(); ++i) place[static_cast<std::size_t>(i)] = i;
  for (std::size_t i = 0; i < sample.rows.size(); ++i)
    place[static_cast<std::size_t>(sample.rows[i])] = static_cast<int>(i);
  Costs costs(changes.size(), 0.0);
  double covered = 0, tokens = 0;
  for (const Trip& trip : trips) {
    std::vector<int> at, from;
    for (int t = 0; t < trip.ids.shape(0); ++t)
      if (const int row =
              place[static_cast<std::size_t>(trip.ids.data<std::int32_t>()[t])];
          row >= 0) {
        at.push_back(t);
        from.push_back(row);
      }
    tokens += trip.ids.shape(0);
    covered += static_cast<double>(at.size());
    if (at.empty()) continue;
    const int n = static_cast<int>(at.size()), K = changes.front().shape(1);
    const mx::array g = mx::take(mx::slice(trip.back, {0, 0}, {trip.back.shape(0), K}),
                                 mx::array(at.data(), {n}, mx::int32), 0);
    const mx::array rows(from.data(), {n}, mx::int32);
    for (std::size_t f = 0; f < changes.size(); ++f)
      costs[f] += half_sum_of_squares(mx::sum(g * mx::take(changes[f], rows, 0), -1));
  }
  for (double& cost : costs) cost *= tokens / std::max(covered, 1.0);
  return costs;
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

// One matrix at every format: bytes and errors, and what `cost` says of the changes of
// its sampled rows. H is a sum over `tokens`.
template <class Cost>
LayerSensitivity at_formats(const LinearModule& module, const RowSample& sample,
                            const InputStatistics& statistics,
                            const GradientCostOptions& options,
                            const std::optional<mx::array>& H, std::int64_t tokens,
                            Cost&& cost) {
  const kernels::LinearWeight& whole = module.weight;
  const int N = whole.output_dim(), K = whole.input_dim();
  LayerSensitivity layer{
      module.path, module.layer, static_cast<std::int64_t>(N) * K, {}};
  if (const auto known = options.known.find(module.path);
      known != options.known.end()) {
    layer = known->second;
  } else {
    LinearModule part = module;
    part.weight = rows_of(whole, sample);
    const std::vector<float> importance = statistics.mean_squares(module.path);
    const double norm = std::max(squared_norm(part.weight, importance), 1e-30);
    const bool by_moments = options.encode && H;
    std::vector<QuantSpec> specs;
    for (const QuantSpec& spec : options.formats)
      if (quantize::fits(spec, K)) specs.push_back(spec);
    throw_if_interrupted();
    std::vector<quantize::EncodedTensor> tensors;
    if (by_moments)
      tensors = options.encode(part, specs, {H->data<float>(), H->size()}, tokens);
    Arrays changes;
    for (std::size_t i = 0; i < specs.size(); ++i) {
      throw_if_interrupted();
      const QuantSpec& spec = specs[i];
      quantize::EncodedTensor tensor =
          by_moments ? std::move(tensors[i])
                     : quantize::encode(part.weight, spec, importance, options.search);
      layer.formats.push_back(
          {spec, quantize::encoded_bytes(spec, N, K, quantize::scale_type_of(whole)), 0,
           0, tensor.error / norm});
      const kernels::LinearWeight coded =
          quantize::as_linear_weight(std::move(tensor), whole.bias);
      changes.push_back(change_of(part.weight, coded));
      if (by_moments && options.on_encoded && sample.is_all())
        options.on_encoded(module.path, spec, coded);
    }
    const Costs costs = cost(changes);
    for (std::size_t f = 0; f < changes.size(); ++f) layer.formats[f].kl = costs[f];
  }
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
                       const std::optional<mx::array>& H, auto&& cost) {
    costs.emplace(module.path, at_formats(module, sample, statistics, options, H,
                                          trips.tokens(), cost));
  };
  std::optional<mx::array> of_head;
  if (options.encode) of_head = second_moments(head_inputs(model, trips.all()));
  const RowSample of_tokens = frequent_rows(
      trips.counts(), sampled_rows(options, output.weight, of_head.has_value()));
  if (output.layer == n_layers) {
    reached.insert(output.path);
    add(output, of_tokens, of_head, [&](const Arrays& changes) {
      return per_token(costs_in_head(model, trips.all(), of_tokens, changes));
    });
  }
  for (int i = n_layers - 1; i >= 0; --i) {
    const SeenByPath seen = trips.back_through(i);
    std::map<std::uintptr_t, mx::array> moments;  // of inputs that several have
    for (const LinearModule* module : by_layer[i]) {
      const auto found = seen.find(module->path);
      const kernels::LinearWeight& w = module->weight;
      if (found == seen.end()) {
        add(*module, even_rows(w.output_dim(), sampled_rows(options, w, false)),
            std::nullopt,
            [](const Arrays& changes) { return Costs(changes.size(), 0.0); });
        continue;
      }
      reached.insert(module->path);
      std::optional<mx::array> H;
      if (options.encode) {
        const Arrays& x = found->second.x;
        const auto known = moments.find(x[0].id());
        H = known != moments.end() ? known->second : second_moments(x);
        moments.emplace(x[0].id(), *H);
      }
      const RowSample sample =
          even_rows(w.output_dim(), sampled_rows(options, w, H.has_value()));
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
      add(*module, even_rows(N, sampled_rows(options, module->weight, false)),
          std::nullopt,
          [](const Arrays& changes) { return Costs(changes.size(), 0.0); });
      continue;
    }
    reached.insert(module->path);
    const bool is_head = module == &output;
    add(*module, of_tokens, is_head ? of_head : std::nullopt,
        [&](const Arrays& changes) {
          Costs sums = costs_of_lookup(trips.all(), of_tokens, N, changes);
          if (is_head) {
            const Costs more = costs_in_head(model, trips.all(), of_tokens, changes);
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
  result.tokens = trips.tokens();
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
