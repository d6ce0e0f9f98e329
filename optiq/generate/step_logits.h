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

  /// Rows on a device, and what it has chosen from each (-1: look yourself) by these
  /// draws. They are there until the next step.
  ///
  /// Shapes    logits [rows, width] float32, evaluated; draws, chosen [rows]
  StepLogits(mx::array logits, std::vector<kernels::RowDraw> draws,
             std::vector<int> chosen);

  int width() const { return logits_->shape(1); }

  /// Until the next step.
  std::span<const float> row(int i);

  /// What this draw gives of a row where that is known without the row.
  std::optional<int> chosen(int i, const kernels::RowDraw& draw) const;

 private:
  std::optional<mx::array> logits_;
  std::vector<kernels::RowDraw> draws_;
  std::vector<int> chosen_;
  std::vector<std::vector<float>> fetched_;  // of rows on a device
};

/// The draws of a sampler's next calls, from the rows of a step from `first` on; the
/// rows before are nobody's.
std::vector<kernels::RowDraw> draws_of(const kernels::Sampler& sampler, int first,
                                       int rows);

/// The sampler's choice from a row, which is fetched only if it is not yet known.
///
/// Throws    as Sampler::sample
int sample(kernels::Sampler& sampler, StepLogits& logits, int row,
           std::span<const int> context);

}  // namespace optiq::generation
