#include <cmath>

#include "optiq/kernels/rms_norm/rms_norm.h"

namespace optiq::kernels::ref {

void rms_norm_rows(const RmsNormArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.dim;
    double squares = 0;
    for (int i = 0; i < a.dim; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double inverse = 1 / std::sqrt(squares / a.dim + a.eps);
    for (int i = 0; i < a.dim; ++i) {
      double value = x[i] * inverse * a.weight[i];
      if (a.gate) {
        const double g = a.gate[row * a.dim + i];
        value *= g / (1 + std::exp(-g));
      }
      a.y[row * a.dim + i] = static_cast<float>(value);
    }
  }
}

}  // namespace optiq::kernels::ref
