#include <algorithm>
#include <cmath>

#include "optiq/kernels/kl_divergence/kl_divergence.h"

namespace optiq::kernels::ref {

double log_sum_exp_row(const float* logits, int vocab) {
  const double largest = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  return largest + std::log(sum);
}

KlRow kl_row(const float* reference, const float* other, int vocab) {
  const double log_p = log_sum_exp_row(reference, vocab);
  const double log_q = log_sum_exp_row(other, vocab);
  double mean = 0, sum = 0;
  for (int i = 0; i < vocab; ++i) {
    const double p = std::exp(reference[i] - log_p);
    if (p != 0) mean += p * (static_cast<double>(reference[i]) - other[i]);
  }
  // The definition as it stands, where the other form would overflow.
  const double plain = mean - (log_p - log_q);
  const bool same = std::max_element(reference, reference + vocab) - reference ==
                    std::max_element(other, other + vocab) - other;
  if (!(plain < 1)) return {plain, same, true};
  for (int i = 0; i < vocab; ++i) {
    const double p = std::exp(reference[i] - log_p);
    const double t = static_cast<double>(reference[i]) - other[i] - mean;
    // p e^-t is q times a constant, and counts where p is zero too.
    sum += p != 0 ? p * (std::expm1(-t) + t) : std::exp(other[i] - log_p + mean);
  }
  return {std::max(0.0, std::log1p(sum)), same, true};
}

}  // namespace optiq::kernels::ref
