#include "optiq/generate/step_logits.h"

#include <utility>

#include "optiq/kernels/host_primitive.h"

namespace optiq::generation {

StepLogits::StepLogits(mx::array logits) : logits_(std::move(logits)) {}

StepLogits::StepLogits(mx::array logits, std::vector<int> largest)
    : logits_(std::move(logits)),
      largest_(std::move(largest)),
      fetched_(largest_.size()) {}

std::span<const float> StepLogits::row(int i) {
  const auto at = static_cast<std::size_t>(i), n = static_cast<std::size_t>(width());
  if (fetched_.empty()) return {logits_->data<float>() + at * n, n};
  std::vector<float>& values = fetched_[at];
  if (values.empty()) {
    values.resize(n);
    kernels::read(*logits_, at * n * sizeof(float), n * sizeof(float), values.data());
  }
  return values;
}

std::optional<int> StepLogits::largest(int i) const {
  const auto at = static_cast<std::size_t>(i);
  if (largest_.empty() || largest_[at] < 0) return std::nullopt;
  return largest_[at];
}

int sample(kernels::Sampler& sampler, StepLogits& logits, int row,
           std::span<const int> context) {
  if (sampler.takes_largest())
    if (const auto id = logits.largest(row)) return *id;
  return sampler.sample(logits.row(row), context);
}

}  // namespace optiq::generation
