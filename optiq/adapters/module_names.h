// Tensor names of adapter files -> linear modules of a model.
#pragma once
#include <string>
#include <string_view>
#include <unordered_map>

#include "optiq/models/model.h"

namespace optiq::adapters {

/// Finds modules whatever stands before `layers.`: an adapter may have been trained on
/// another form of the same model, alone or inside a vision model.
class ModuleNames {
 public:
  explicit ModuleNames(models::Model& model);

  /// Null if the model has no such linear module.
  const models::LinearModule* find(std::string_view path) const;

 private:
  std::unordered_map<std::string, const models::LinearModule*> modules_;
};

}  // namespace optiq::adapters
