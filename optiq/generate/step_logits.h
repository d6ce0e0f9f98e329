// The logits of a step, fetched from where they lie as far as somebody asks for them.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/sampling/sampling.h"

namespace optiq::generation {

namespace mx = mlx::core;

/// Threads   one.
class StepLogits {
 public:
  StepLogits() = default;

  /// Rows on the host.
  ///
  /// Shapes    logits [rows, width] float32, evaluated
  explicit StepLogits(mx::array logits);

  /// Rows on a device, and what it has found to be the largest of each (-1: look
  /// yourself). They are there until the next step.
  ///
  /// Shapes    logits [rows, width] float32, evaluated; largest [rows]
  StepLogits(mx::array logits, std::vector<int> largest);

  int width() const { return logits_->shape(1); }

  /// Until the next step.
  std::span<const float> row(int i);

  /// The id of the largest logit of a row where that is known without the row.
  std::optional<int> largest(int i) const;

 private:
  std::optional<mx::array> logits_;
  std::vector<int> largest_;
  std::vector<std::vector<float>> fetched_;  // of rows on a device
};

/// The sampler's choice from a row, which is fetched only if its largest is not enough.
///
/// Throws    as Sampler::sample
int sample(kernels::Sampler& sampler, StepLogits& logits, int row,
           std::span<const int> context);

}  // namespace optiq::generation
