// `optiq lora merge`: several adapters side by side in one.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "command.h"
#include "optiq/adapters/load_adapter.h"
#include "optiq/adapters/write_adapter.h"
#include "optiq/base/file.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/generate/model_location.h"
#include "request_options.h"

namespace optiq::app {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> adapters;
  std::vector<double> weights;
  std::filesystem::path output;
};

// A number for each adapter: 1 where none are given.
std::vector<double> weights_of(const Options& options) {
  if (options.weights.empty()) return std::vector<double>(options.adapters.size(), 1.0);
  const std::vector<double>& weights = options.weights;
  if (!std::ranges::all_of(weights,
                           [](double weight) { return std::isfinite(weight); }))
    throw UsageError("--weights: expected finite numbers");
  if (weights.size() != options.adapters.size())
    throw UsageError(
        fmt::format("--weights: expected a number for each of {} adapters, found {}",
                    options.adapters.size(), weights.size()));
  return weights;
}

void lora_merge(const Options& options, Context& context) {
  const std::vector<double> weights = weights_of(options);
  AtomicDirectory directory(options.output, "adapter_config.json");
  const LoadedModel model = load(options.model, {.text = false});
  std::vector<models::AdapterPtr> parts;
  auto sources = nlohmann::json::array();
  for (std::size_t i = 0; i < options.adapters.size(); ++i) {
    auto part = std::make_shared<models::Adapter>(
        *adapters::load_adapter(find_adapter(options.adapters[i]), *model.model));
    const double weight = weights[i];
    for (auto& [name, factors] : part->modules) {
      if (factors.gain)
        throw std::invalid_argument(
            options.adapters[i] +
            ": a DoRA adapter cannot be merged with others, its "
            "gain is not a sum");
      factors.scale *= static_cast<float>(weight);
    }
    parts.push_back(part);
    sources.push_back({{"path", options.adapters[i]}, {"weight", weight}});
  }
  const models::Adapter sum = models::stacked(parts);
  adapters::write_adapter(directory.path(), *model.model,
                          {.adapter = &sum,
                           .base_model = options.model,
                           .settings = {{"rank_scaling", "merged"},
                                        {"optiq_merge", {{"sources", sources}}}}});
  directory.commit();
  int most = 0;
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object();
  for (const auto& [name, factors] : sum.modules) {
    most = std::max(most, factors.rank());
    ranks[name] = factors.rank();
  }
  context.out.print("{}: {} linear layers, ranks up to {}\n", options.output.string(),
                    sum.modules.size(), most);
  context.out.summary({{"output", options.output.string()}, {"ranks", ranks}});
}

}  // namespace

Run add_lora_merge(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  app.add_option("ADAPTER", options->adapters, "Adapters: directories or hub ids")
      ->required()
      ->expected(1, 64);
  app.add_option("-o,--output", options->output, "The merged adapter's directory")
      ->required()
      ->type_name("DIR");
  app.add_option("--weights", options->weights,
                 "What each counts, numbers with commas (1 each)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST");
  return [options](Context& context) { lora_merge(*options, context); };
}

}  // namespace optiq::app
