// The form of PEFT: `base_model.model.<path>.lora_A.weight` and scales by pattern.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "optiq/text/pattern.h"

namespace optiq::adapters {

/// How adapter_config.json scales each module.
///
/// Source    PEFT 0.21, LoraModel and get_pattern_key: the pattern matches the end of
///           the path behind a dot, and the first key that does so wins; alpha / rank,
///           or alpha / sqrt(rank) with use_rslora.
class PeftScales {
 public:
  /// Throws    CheckpointError naming the file and the key: for values that are none,
  ///           and for settings whose effect optiq does not have
  explicit PeftScales(const std::filesystem::path& config_file);

  /// The rank that the config gives a module, by its path in the base model.
  int rank(std::string_view path) const;
  float scale(std::string_view path) const;

  bool dora() const { return dora_; }
  const std::string& base_model() const { return base_model_; }

 private:
  struct Row {
    text::Pattern pattern;
    double value;
  };
  static double choose(const std::vector<Row>& rows, std::string_view path,
                       double otherwise);

  double rank_ = 0;
  double alpha_ = 0;
  std::vector<Row> ranks_, alphas_;
  bool rslora_ = false;
  bool dora_ = false;
  std::string base_model_;
};

}  // namespace optiq::adapters
