#include <algorithm>
#include <cmath>

#include "optiq/kernels/cross_entropy/cross_entropy.h"

namespace optiq::kernels::ref {

void cross_entropy_rows(const CrossEntropyArgs& a, std::int64_t begin,
                        std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* logits = a.logits + row * a.vocab;
    const double largest = *std::max_element(logits, logits + a.vocab);
    double sum = 0;
    for (int i = 0; i < a.vocab; ++i) sum += std::exp(logits[i] - largest);
    a.losses[row] =
        static_cast<float>(largest + std::log(sum) - logits[a.targets[row]]);
    if (!a.gradient) continue;
    for (int i = 0; i < a.vocab; ++i) {
      const double p = std::exp(logits[i] - largest) / sum;
      logits[i] = static_cast<float>(a.weights[row] * (p - (i == a.targets[row])));
    }
  }
}

}  // namespace optiq::kernels::ref
