#include "optiq/train/lora_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <unordered_map>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/signal.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::train {
namespace {

namespace fs = std::filesystem;

constexpr int kProbeRank = 8;  // of the matrices that see the gradients

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

std::vector<const models::LinearModule*> chosen_modules(models::Model& model,
                                                        const TrainOptions& options) {
  const int n = model.n_layers();
  const int first = options.num_layers < 0 ? 0 : std::max(0, n - options.num_layers);
  std::set<std::string> known, wanted(options.targets.begin(), options.targets.end());
  std::vector<const models::LinearModule*> modules;
  for (const models::LinearModule* module : model.linears()) {
    if (module->layer < 0 || module->layer >= n) continue;
    known.insert(last_part(module->name));
    if (module->n_experts > 1) continue;  // experts are left as they are
    if (module->layer >= first &&
        (wanted.empty() || wanted.contains(last_part(module->name))))
      modules.push_back(module);
  }
  for (const std::string& name : wanted)
    if (!known.contains(name))
      throw std::invalid_argument(
          fmt::format("target module \"{}\": the model has no linear layer of that "
                      "name; it has {}",
                      name, fmt::join(known, ", ")));
  if (modules.empty()) throw std::invalid_argument("no layer is left to train");
  return modules;
}

// The stored divergence of each matrix at the bits that it has, by module path.
std::unordered_map<std::string, double> stored_divergences(
    const fs::path& directory,
    const std::vector<const models::LinearModule*>& modules) {
  const fs::path file = directory / "optiq/sensitivity.json";
  std::unordered_map<std::string, double> found;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return found;
  const nlohmann::json json = checkpoint::read_json_object(file);
  // By the name behind the prefix: what was measured may have had another one.
  std::unordered_map<std::string, const nlohmann::json*> rows;
  if (json.contains("layers") && json["layers"].is_array())
    for (const auto& row : json["layers"]) {
      if (!row.is_object() || !row.value("layer_name", nlohmann::json()).is_string())
        continue;
      const std::string path = row["layer_name"].get<std::string>();
      const std::size_t name = path.find("layers.");
      if (name != std::string::npos) rows[path.substr(name)] = &row;
    }
  for (const models::LinearModule* module : modules) {
    const auto at = rows.find(module->name);
    if (at == rows.end() || !module->weight.quantized()) continue;
    const nlohmann::json values =
        at->second->value("sensitivities", nlohmann::json::object());
    const std::string bits = std::to_string(module->weight.spec.bits);
    if (values.is_object() && values.contains(bits) && values[bits].is_number())
      found[module->path] = values[bits].get<double>();
  }
  return found;
}

// The Frobenius norm of the mean gradient of each weight. It is seen through random
// matrices: with b zero, the gradient of b is scale a x^T dy = scale (G a^T)^T, and a
// uniform in +-1 / sqrt(K) keeps |G a^T|^2 = rank / (3 K) |G|^2 on average.
std::vector<double> gradient_norms(
    LoadedModel& model, const std::vector<const models::LinearModule*>& modules,
    const std::vector<Example>& training, const TrainOptions& options) {
  std::vector<LoraModule> probes;
  for (const models::LinearModule* module : modules)
    probes.push_back({module, kProbeRank, 1.0f});
  const LoraParameters parameters(std::move(probes), {.seed = options.seed + 1});
  Objective objective(*model.model, options.objective);
  std::vector<mx::array> sums(modules.size(), mx::array(0.0f));
  const auto batch_size = static_cast<std::size_t>(options.batch_size);
  int batches = 0;
  for (std::size_t i = 0; batches < options.gradient_batches && i < training.size();
       i += batch_size, ++batches) {
    throw_if_interrupted();
    std::vector<const Example*> batch;
    for (std::size_t j = i; j < std::min(training.size(), i + batch_size); ++j)
      batch.push_back(&training[j]);
    std::vector<mx::array> gradients;
    objective.gradients(batch, parameters, 0, gradients);
    for (std::size_t m = 0; m < modules.size(); ++m) {
      sums[m] = sums[m] + gradients[2 * m + 1];
      mx::eval(sums[m]);
    }
  }
  std::vector<double> norms;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    const double squares = mx::sum(mx::square(sums[m])).item<float>();
    const double K = modules[m]->weight.input_dim();
    norms.push_back(std::sqrt(squares * 3 * K / kProbeRank) / batches);
  }
  return norms;
}

}  // namespace

std::vector<LoraModule> plan_lora(LoadedModel& model,
                                  const std::vector<Example>& training,
                                  const TrainOptions& options) {
  const auto modules = chosen_modules(*model.model, options);
  std::vector<RankedLayer> layers;
  for (const models::LinearModule* module : modules)
    layers.push_back({module->name, module->weight.input_dim(),
                      module->weight.output_dim(),
                      module->weight.quantized() ? module->weight.spec.bits : 16});
  if (options.ranks.scaling == RankScaling::kByKl) {
    const auto stored = stored_divergences(model.directory, modules);
    for (std::size_t i = 0; i < modules.size(); ++i)
      if (const auto at = stored.find(modules[i]->path); at != stored.end())
        layers[i].kl = at->second;
  }
  if (options.ranks.scaling == RankScaling::kByGrad) {
    const auto norms = gradient_norms(model, modules, training, options);
    for (std::size_t i = 0; i < modules.size(); ++i) layers[i].score = norms[i];
  }
  const std::vector<int> ranks = choose_ranks(layers, options.ranks);
  const double base = options.ranks.base;
  const double scale = options.alpha ? *options.alpha / base : options.scale;
  std::vector<LoraModule> plan;
  for (std::size_t i = 0; i < modules.size(); ++i)
    plan.push_back({modules[i], ranks[i],
                    static_cast<float>(
                        options.rslora ? scale * std::sqrt(base / ranks[i]) : scale)});
  return plan;
}

std::string describe(const std::vector<LoraModule>& modules,
                     const RankOptions& options) {
  std::int64_t parameters = 0, constant = 0;
  int least = modules[0].rank, most = least;
  for (const LoraModule& m : modules) {
    const auto& w = m.module->weight;
    const std::int64_t width = w.input_dim() + w.output_dim();
    parameters += width * m.rank;
    constant += width * options.base;
    least = std::min(least, m.rank);
    most = std::max(most, m.rank);
  }
  return fmt::format(
      "{} linear layers, ranks {}{}{}: {} to {}, {} parameters ({:.2f} of rank {} "
      "everywhere)",
      modules.size(), name(options.scaling), options.permuted ? ", permuted" : "",
      options.same_budget || options.scaling == RankScaling::kByGrad
          ? ", within the constant rank's budget"
          : "",
      least, most, parameters,
      static_cast<double>(parameters) / static_cast<double>(constant), options.base);
}

}  // namespace optiq::train
