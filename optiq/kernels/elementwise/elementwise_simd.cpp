#include "optiq/kernels/elementwise/elementwise.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

void scaled_sum_rows(const float* a, const float* b, float scale, float* y,
                     std::int64_t n) {
  std::int64_t i = 0;
  if (b) {
    for (; i + kLanes <= n; i += kLanes)
      store(y + i, scale * (load(a + i) + load(b + i)));
    for (; i < n; ++i) y[i] = scale * (a[i] + b[i]);
    return;
  }
  for (; i + kLanes <= n; i += kLanes) store(y + i, scale * load(a + i));
  for (; i < n; ++i) y[i] = scale * a[i];
}

// tanh(v) = 2 sigmoid(2 v) - 1: right to some ulp of cap, which is what logits need.
void softcap_rows(const float* x, float cap, float* y, std::int64_t n) {
  const float twice = 2.0f / cap;
  const auto one = [=](Vec v) __attribute__((always_inline)) {
    return cap * (2.0f * sigmoid(v * twice) - 1.0f);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, one(load(x + i)));
  for (; i < n; ++i) y[i] = one(broadcast(x[i]))[0];
}

}  // namespace optiq::kernels::OPTIQ_SIMD
