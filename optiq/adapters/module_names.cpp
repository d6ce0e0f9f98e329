#include "optiq/adapters/module_names.h"

namespace optiq::adapters {

ModuleNames::ModuleNames(models::Model& model) {
  for (const models::LinearModule* module : model.linears())
    if (module->layer >= 0 && module->layer < model.n_layers() &&
        module->n_experts == 1)
      modules_.emplace(module->name, module);
}

const models::LinearModule* ModuleNames::find(std::string_view path) const {
  for (const std::string_view prefix :
       {"language_model.model.", "model.language_model.", "language_model.", "model.",
        ""}) {
    if (!path.starts_with(prefix)) continue;
    const auto at = modules_.find(std::string(path.substr(prefix.size())));
    if (at != modules_.end()) return at->second;
  }
  return nullptr;
}

}  // namespace optiq::adapters
