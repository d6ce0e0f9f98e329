#include "optiq/convert/compensate.h"

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/base/signal.h"
#include "optiq/quantize/blas.h"
#include "optiq/quantize/gptq.h"
#include "optiq/quantize/linear_weight.h"
#include "optiq/quantize/moments.h"

namespace optiq::convert {
namespace {

namespace mx = mlx::core;

constexpr int kBatchTokens = 2048;  // rows of one forward call
constexpr auto kExact = kernels::Activation::kExact;

// Shares of H's mean that its diagonal gets.
constexpr double kDamping = 0.03;
constexpr double kTiedDamping = 1;

// Windows of one forward call, and their rows before the next layer.
struct Group {
  std::vector<int> lengths;
  std::vector<int> ids;
  mx::array x{0.0f};

  models::Batch batch() const { return models::uncached_batch(lengths, kExact); }
};

std::vector<Group> grouped(const std::vector<std::vector<int>>& windows) {
  std::vector<Group> groups;
  for (const auto& window : windows) {
    if (groups.empty() ||
        std::ssize(groups.back().ids) + std::ssize(window) > kBatchTokens)
      groups.emplace_back();
    groups.back().lengths.push_back(static_cast<int>(window.size()));
    groups.back().ids.insert(groups.back().ids.end(), window.begin(), window.end());
  }
  return groups;
}

// Of the inputs of the experts that are one module: of each, and of all.
class ExpertMoments {
 public:
  void add(int expert, const mx::array& x) {
    sums_.try_emplace(expert, x.shape(1)).first->second.add(x);
    all_.reset();
  }

  // One expert's, with all others' besides as if they were kShared tokens for each
  // input: many experts see few tokens, and some none.
  quantize::Moments of(int expert, int K) const {
    constexpr double kShared = 0.25;
    if (!all_) {
      all_.emplace(K);
      for (const auto& [e, sum] : sums_) all_->add(sum, 1);
    }
    quantize::Moments moments(K);
    if (const auto found = sums_.find(expert); found != sums_.end())
      moments.add(found->second, 1);
    moments.add(*all_, kShared * K / std::max(1.0, all_->rows()));
    return moments;
  }

 private:
  std::map<int, quantize::Moments> sums_;
  mutable std::optional<quantize::Moments> all_;  // made when it is asked for
};

// Sums over calls of x^T x, for inputs x [T, K]; modules that are given the same array
// share one.
class SecondMoments {
 public:
  void see(const models::LinearModule& module, const mx::array& x) {
    for (auto& [known, paths] : seen_)
      if (known.id() == x.id()) return paths.push_back(module.path);
    seen_.push_back({x, {module.path}});
  }

  void see_expert(const models::LinearModule& experts, int expert, const mx::array& x) {
    experts_[experts.path].add(expert, x);
  }

  // Takes in what was seen in one call.
  void collect() {
    for (const auto& [x, paths] : seen_) {
      const auto [place, is_new] = slots_.try_emplace(paths[0], sums_.size());
      for (const std::string& path : paths) slots_.emplace(path, place->second);
      if (is_new) sums_.emplace_back(x.shape(1));
      sums_[place->second].add(x);
    }
    seen_.clear();
  }

  bool has(const std::string& path) const {
    return slots_.contains(path) || experts_.contains(path);
  }

  // Null where a module's inputs are not those of experts apart.
  const ExpertMoments* of_experts(const std::string& path) const {
    const auto found = experts_.find(path);
    return found == experts_.end() ? nullptr : &found->second;
  }

  // Requires  has(path), and not those of experts apart
  const quantize::Moments& of(const std::string& path) const {
    return sums_[slots_.at(path)];
  }

 private:
  struct Seen {
    mx::array x;
    std::vector<std::string> paths;
  };
  std::vector<Seen> seen_;
  std::map<std::string, std::size_t> slots_;
  std::vector<quantize::Moments> sums_;
  std::map<std::string, ExpertMoments> experts_;
};

// Few tokens say little of many inputs: what is fitted to them alone is wrong of
// others.
double damping_for(double share, std::int64_t inputs, const quantize::Moments& H) {
  return std::max(share, 0.5 * static_cast<double>(inputs) / std::max(H.rows(), 1.0));
}

quantize::GptqResult encode_with(const kernels::LinearWeight& w, const QuantSpec& spec,
                                 std::span<const float> H, double damping,
                                 quantize::Search search) {
  return quantize::encode_gptq(
      quantize::float_values(w), w.output_dim(), w.input_dim(), H,
      {{spec.bits, spec.group_size, quantize::scale_type_of(w), search}, damping});
}

// The windows on their way through the model, which begins with its own weights.
class Walk {
 public:
  Walk(Encoder& encoder, quantize::Search search,
       const std::vector<std::vector<int>>& windows)
      : encoder_(encoder),
        search_(search),
        model_(encoder.model()),
        groups_(grouped(windows)) {
    encoder.restore();
  }

  ~Walk() {
    model_.observe_inputs(nullptr);
    model_.observe_experts(nullptr);
  }

  void embed() {
    for (Group& group : groups_) {
      group.x = model_.embed(
          mx::array(group.ids.data(), {static_cast<int>(group.ids.size())}, mx::int32));
      mx::eval(group.x);
    }
  }

  void step(int layer) {
    for (Group& group : groups_) {
      throw_if_interrupted();
      group.x = model_.layer(layer, group.x, group.batch());
      mx::eval(group.x);
    }
  }

  // Of the matrices of a layer, of the head for n_layers.
  SecondMoments observed(int layer) {
    SecondMoments moments;
    model_.observe_inputs([&](const models::LinearModule& module, const mx::array& x) {
      moments.see(module, x);
    });
    model_.observe_experts(
        [&](const models::LinearModule& module, int expert, const mx::array& x) {
          moments.see_expert(module, expert, x);
        });
    for (Group& group : groups_) {
      throw_if_interrupted();
      // Of the head only the input is computed.
      const mx::array y = layer < model_.n_layers()
                              ? model_.layer(layer, group.x, group.batch())
                              : model_.head(group.x, kExact);
      moments.collect();
    }
    model_.observe_inputs(nullptr);
    model_.observe_experts(nullptr);
    return moments;
  }

  struct Coded {
    kernels::LinearWeight w;
    double error_ratio;
  };

  // Requires  moments of its inputs
  Coded encode(const std::string& path, const QuantSpec& spec,
               const SecondMoments& moments, double damping) const {
    throw_if_interrupted();
    const kernels::LinearWeight& w = encoder_.original(path);
    quantize::GptqResult coded;
    if (const ExpertMoments* experts = moments.of_experts(path))
      coded = encode_experts(w, spec, *experts, damping);
    else
      coded =
          encode_with(w, spec, moments.of(path).sum(),
                      damping_for(damping, w.input_dim(), moments.of(path)), search_);
    const double searched = coded.searched_output_error;
    return {quantize::as_linear_weight(std::move(coded.tensor), w.bias),
            searched > 0 ? coded.output_error / searched : 1};
  }

 private:
  // The matrices of experts, one below the other, each by its own moments.
  quantize::GptqResult encode_experts(const kernels::LinearWeight& w,
                                      const QuantSpec& spec,
                                      const ExpertMoments& moments,
                                      double damping) const {
    const std::vector<float> values = quantize::float_values(w);
    const std::int64_t N = encoder_.model().config().hidden_size, K = w.input_dim();
    const auto E = static_cast<int>(w.output_dim() / N);
    quantize::GptqResult all;
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    for (int e = 0; e < E; ++e) {
      throw_if_interrupted();
      const quantize::Moments H = moments.of(e, static_cast<int>(K));
      const quantize::GptqResult one = quantize::encode_gptq(
          std::span(values).subspan(static_cast<std::size_t>(e * N * K),
                                    static_cast<std::size_t>(N * K)),
          N, K, H.sum(),
          {{spec.bits, spec.group_size, quantize::scale_type_of(w), search_},
           damping_for(damping, K, H)});
      all.output_error += one.output_error;
      all.searched_output_error += one.searched_output_error;
      if (e == 0) {
        all.tensor = one.tensor;
        continue;
      }
      all.tensor.N += N;
      all.tensor.error += one.tensor.error;
      all.tensor.mlx_error += one.tensor.mlx_error;
      append(all.tensor.weight, one.tensor.weight);
      append(all.tensor.scales, one.tensor.scales);
      append(all.tensor.biases, one.tensor.biases);
    }
    return all;
  }

  Encoder& encoder_;
  const quantize::Search search_;
  models::Model& model_;
  std::vector<Group> groups_;
};

bool compensable(const std::optional<QuantSpec>& spec) {
  return spec && spec->mode == QuantMode::kAffine;
}

// The matrices of each layer, -1 for the embedding, n_layers for the head.
std::map<int, std::vector<std::string>> paths_by_layer(models::Model& model) {
  std::map<int, std::vector<std::string>> paths;
  for (const models::LinearModule* module : model.linears())
    paths[module->layer].push_back(module->path);
  return paths;
}

bool tied(const models::Model& model) {
  return model.output().layer == models::LinearModule::kEmbedding;
}

}  // namespace

std::vector<quantize::EncodedTensor> compensated(const models::LinearModule& module,
                                                 std::span<const QuantSpec> specs,
                                                 const quantize::Moments& H,
                                                 quantize::Search search) {
  const kernels::LinearWeight& w = module.weight;
  const bool looked_up = module.layer == models::LinearModule::kEmbedding;
  const quantize::GptqFactor factor(
      H.sum(), w.input_dim(),
      damping_for(looked_up ? kTiedDamping : kDamping, w.input_dim(), H));
  const std::vector<float> values = quantize::float_values(w);
  // A format on each thread: few rows of one leave most of many threads idle.
  std::vector<quantize::EncodedTensor> tensors(specs.size());
  std::vector<std::exception_ptr> errors(specs.size());  // of weights not finite
  const quantize::SingleThreadedBlas single;
  parallel_for(specs.size(), [&](std::size_t i) {
    const QuantSpec& spec = specs[i];
    try {
      tensors[i] = quantize::encode_gptq(
                       values, w.output_dim(), factor,
                       {spec.bits, spec.group_size, quantize::scale_type_of(w), search})
                       .tensor;
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return tensors;
}

void compensate_candidates(Encoder& encoder, sensitivity::Sensitivities& costs,
                           const std::vector<QuantSpec>& others,
                           quantize::Search search,
                           const std::vector<std::vector<int>>& windows,
                           const Progress& progress) {
  models::Model& model = encoder.model();
  const int n_layers = model.n_layers();
  Walk walk(encoder, search, windows);
  const auto offer = [&](const std::string& path, const QuantSpec& spec,
                         const SecondMoments& moments, double damping) {
    const kernels::LinearWeight& w = encoder.original(path);
    if (!compensable(spec) || !quantize::fits(spec, w.input_dim())) return 1.0;
    Walk::Coded coded = walk.encode(path, spec, moments, damping);
    encoder.offer(path, spec, search, std::move(coded.w));
    return coded.error_ratio;
  };
  const auto weigh = [&](const std::vector<std::string>& paths,
                         const SecondMoments& moments, double damping) {
    for (const std::string& path : paths) {
      if (!moments.has(path)) continue;
      std::vector<QuantSpec> known;
      for (auto& layer : costs.layers)
        if (layer.name == path)
          for (auto& cost : layer.formats) {
            const double ratio = offer(path, cost.spec, moments, damping);
            if (!costs.compensated) cost.kl *= ratio;
            known.push_back(cost.spec);
          }
      for (const QuantSpec& spec : others)
        if (std::ranges::find(known, spec) == known.end())
          offer(path, spec, moments, damping);
    }
  };
  auto paths = paths_by_layer(model);
  walk.embed();
  for (int i = 0; i < n_layers; ++i) {
    const SecondMoments moments = walk.observed(i);
    weigh(paths[i], moments, kDamping);
    walk.step(i);
    if (progress) progress(i + 1, n_layers + 1);
  }
  const bool is_tied = tied(model);
  weigh(paths[is_tied ? models::LinearModule::kEmbedding : n_layers],
        walk.observed(n_layers), is_tied ? kTiedDamping : kDamping);
  if (progress) progress(n_layers + 1, n_layers + 1);
}

void compensate(Encoder& encoder, const Plan& plan, quantize::Search search,
                const std::vector<std::vector<int>>& windows,
                const Progress& progress) {
  models::Model& model = encoder.model();
  const int n_layers = model.n_layers();
  Walk walk(encoder, search, windows);
  const auto encode = [&](const std::string& path, const SecondMoments& moments,
                          double damping) {
    const auto spec = plan.find(path);
    if (spec == plan.end() || !compensable(spec->second) || !moments.has(path)) return;
    encoder.keep(path, *spec->second, search,
                 walk.encode(path, *spec->second, moments, damping).w);
  };
  auto paths = paths_by_layer(model);
  const auto apply = [&](int layer) {
    for (const std::string& path : paths[layer])
      if (const auto spec = plan.find(path); spec != plan.end())
        encoder.apply(path, spec->second, search);
  };
  if (tied(model)) {
    walk.embed();
    for (int i = 0; i < n_layers; ++i) walk.step(i);
    encode(model.output().path, walk.observed(n_layers), kTiedDamping);
  }
  apply(models::LinearModule::kEmbedding);
  walk.embed();
  for (int i = 0; i <= n_layers; ++i) {
    if (!paths[i].empty()) {
      const SecondMoments moments = walk.observed(i);
      for (const std::string& path : paths[i]) encode(path, moments, kDamping);
    }
    apply(i);
    if (i < n_layers) walk.step(i);
    if (progress) progress(i + 1, n_layers + 1);
  }
}

}  // namespace optiq::convert
