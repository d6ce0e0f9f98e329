// How a source checkpoint's tensors and config become those that mlx-lm loads.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/names.h"
#include "optiq/convert/plan.h"

namespace optiq::convert {

/// The written form of one source checkpoint.
///
/// Names: Qwen3.5 is written as mlx-lm's `qwen3_5` or `qwen3_5_moe` with its text model
/// under `language_model.`, and so is the text model of a multimodal Gemma; all others
/// keep `model.` and `lm_head`. Vision towers and the head for further tokens are left
/// out, as mlx-lm does.
///
/// Source    sanitize() of mlx-lm 0.32.2; docs/formats/checkpoint.md
class MlxForm {
 public:
  explicit MlxForm(const checkpoint::Checkpoint& source);

  /// The source's tensors that are written, sorted.
  const std::vector<std::string>& tensors() const { return tensors_; }

  /// A source tensor's name, or a module's path, in the written form.
  std::string written_name(const std::string& source_name) const;

  /// A tensor that is not quantized, in the written form: norms of Qwen3.5 with their
  /// one added, its convolutions turned; everything else as it is.
  mlx::core::array written_tensor(const std::string& source_name) const;

  /// config.json with the plan as `quantization` and `quantization_config`.
  nlohmann::json written_config(const Plan& plan) const;

 private:
  bool is_norm_less_one(const std::string& source_name) const;

  checkpoint::Checkpoint source_;
  checkpoint::ModelConfig config_;
  checkpoint::TextNames names_;
  bool mlx_form_;
  bool is_qwen35_;
  bool nested_;  // text model under language_model.
  std::vector<std::string> tensors_;
};

}  // namespace optiq::convert
