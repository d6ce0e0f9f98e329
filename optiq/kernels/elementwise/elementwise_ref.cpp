#include "optiq/kernels/elementwise/elementwise.h"

#include <cmath>

namespace optiq::kernels::ref {

void scaled_sum_rows(const float* a, const float* b, float scale, float* y,
                     std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    y[i] = static_cast<float>(scale * (static_cast<double>(a[i]) + (b ? b[i] : 0)));
}

void softcap_rows(const float* x, float cap, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    y[i] = static_cast<float>(cap * std::tanh(static_cast<double>(x[i]) / double{cap}));
}

}  // namespace optiq::kernels::ref
