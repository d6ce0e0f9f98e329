// The matrices that are trained, and the adapter that they make.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/models/model.h"

namespace optiq::train {

namespace mx = mlx::core;

/// One linear layer that is trained.
struct LoraModule {
  const models::LinearModule* module = nullptr;
  int rank = 0;
  float scale = 1;
};

struct LoraOptions {
  bool dora = false;
  float dropout = 0;  // of the input of the two matrices
  std::uint64_t seed = 0;
};

class LoraParameters {
 public:
  /// a uniform in +-1 / sqrt(inputs), b zero, so that training begins at the base;
  /// DoRA's magnitudes the lengths of the weight's rows.
  ///
  /// Source    mlx-lm 0.32.2, tuner/lora.py
  LoraParameters(std::vector<LoraModule> modules, const LoraOptions& options);

  const std::vector<LoraModule>& modules() const { return modules_; }
  bool dora() const { return options_.dora; }
  std::int64_t count() const;  // trained numbers

  /// All arrays, module by module: a [rank, K], b [rank, N], and m [N] for DoRA.
  /// float32, evaluated.
  std::vector<mx::array>& values() { return values_; }
  const std::vector<mx::array>& values() const { return values_; }

  /// The names of values(): "layers.0.mlp.up_proj.a" and so on.
  std::vector<std::string> names() const;

  /// The adapter of values like values(), which may be traced for gradients.
  /// `dropout_step` chooses what is dropped; none: nothing is.
  models::AdapterPtr adapter(
      const std::vector<mx::array>& values,
      std::optional<std::uint64_t> dropout_step = std::nullopt) const;

  /// DoRA's magnitudes by module name; empty without DoRA.
  std::map<std::string, mx::array> magnitudes() const;

 private:
  std::vector<LoraModule> modules_;
  LoraOptions options_;
  std::vector<mx::array> values_;
  std::vector<mx::array> squares_;  // of the weights' rows, for DoRA
};

}  // namespace optiq::train
