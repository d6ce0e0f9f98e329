#include "optiq/train/adamw.h"

#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"

namespace optiq::train {
namespace {

constexpr std::size_t kGrain = 1 << 15;  // values of a chunk

}  // namespace

AdamW::AdamW(const std::vector<mx::array>& values, const AdamWOptions& options)
    : options_(options) {
  for (const mx::array& value : values) {
    first_.push_back(mx::zeros(value.shape()));
    second_.push_back(mx::zeros(value.shape()));
  }
  mx::eval(first_);
  mx::eval(second_);
}

void AdamW::step(std::vector<mx::array>& values,
                 const std::vector<mx::array>& gradients, double learning_rate) {
  ++steps_;
  const auto correct1 = static_cast<float>(1 / (1 - std::pow(options_.beta1, steps_)));
  const auto correct2 = static_cast<float>(1 / (1 - std::pow(options_.beta2, steps_)));
  const auto b1 = static_cast<float>(options_.beta1);
  const auto b2 = static_cast<float>(options_.beta2);
  const auto epsilon = static_cast<float>(options_.epsilon);
  const auto rate = static_cast<float>(learning_rate);
  const auto keep = static_cast<float>(1 - learning_rate * options_.weight_decay);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const mx::array g = mx::contiguous(gradients[i]);
    mx::array next = mx::zeros(values[i].shape());  // others may hold the old ones
    mx::eval(g, next);
    const float *gradient = g.data<float>(), *value = values[i].data<float>();
    float *m = first_[i].data<float>(), *v = second_[i].data<float>();
    float* out = next.data<float>();
    parallel_ranges(next.size(), kGrain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t j = begin; j < end; ++j) {
        m[j] = b1 * m[j] + (1 - b1) * gradient[j];
        v[j] = b2 * v[j] + (1 - b2) * gradient[j] * gradient[j];
        out[j] = keep * value[j] -
                 rate * (m[j] * correct1) / (std::sqrt(v[j] * correct2) + epsilon);
      }
    });
    values[i] = next;
  }
}

void AdamW::restore(std::vector<mx::array> first, std::vector<mx::array> second,
                    int steps) {
  first_ = std::move(first);
  second_ = std::move(second);
  steps_ = steps;
}

}  // namespace optiq::train
