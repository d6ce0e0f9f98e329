#include "adapter_flag.h"

#include "optiq/base/log.h"
#include "optiq/generate/model_location.h"

namespace optiq::app {

void add_adapter_flag(CLI::App& app, AdapterFlag& adapters) {
  app.add_option("--adapter", adapters,
                 "A LoRA adapter, a directory or a hub id (repeatable: they add up)")
      ->type_name("PATH")
      ->expected(1)
      ->take_all();
}

std::unique_ptr<adapters::AdapterActivation> activate(const AdapterFlag& adapters,
                                                      LoadedModel& model) {
  if (adapters.empty()) return nullptr;
  std::string all;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const std::string id = "adapter-" + std::to_string(i);
    const auto loaded = adapters::mount(*model.model, id, find_adapter(adapters[i]));
    log_debug("{}: {} linear layers", adapters[i], loaded->modules.size());
    all += (all.empty() ? "" : "+") + id;
  }
  return std::make_unique<adapters::AdapterActivation>(all);
}

}  // namespace optiq::app
