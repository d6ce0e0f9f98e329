#include "optiq/generate/step_logits.h"

#include <utility>

#include "optiq/kernels/host_primitive.h"

namespace optiq::generation {

StepLogits::StepLogits(mx::array logits) : logits_(std::move(logits)) {}

StepLogits::StepLogits(mx::array logits, std::vector<kernels::RowDraw> draws,
                       std::vector<int> chosen)
    : logits_(std::move(logits)),
      draws_(std::move(draws)),
      chosen_(std::move(chosen)),
      fetched_(chosen_.size()) {}

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

std::optional<int> StepLogits::chosen(int i, const kernels::RowDraw& draw) const {
  const auto at = static_cast<std::size_t>(i);
  if (chosen_.empty() || chosen_[at] < 0 || draws_[at] != draw) return std::nullopt;
  return chosen_[at];
}

std::vector<kernels::RowDraw> draws_of(const kernels::Sampler& sampler, int first,
                                       int rows) {
  std::vector<kernels::RowDraw> draws(static_cast<std::size_t>(rows));
  for (int row = first; row < rows; ++row)
    if (const auto draw = sampler.next_draw(row - first))
      draws[static_cast<std::size_t>(row)] = *draw;
  return draws;
}

int sample(kernels::Sampler& sampler, StepLogits& logits, int row,
           std::span<const int> context) {
  if (const auto draw = sampler.next_draw())
    if (const auto id = logits.chosen(row, *draw)) {
      sampler.skip();
      return *id;
    }
  return sampler.sample(logits.row(row), context);
}

}  // namespace optiq::generation
