// Two passes over a row that fits the first-level cache: squares, then scaling. Four
// sums hide the latency of the multiply-add. Bound by the bytes of x and y.
#include "optiq/kernels/rms_norm/rms_norm.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

void rms_norm_rows(const RmsNormArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * a.dim;
    const float* gate = a.gate ? a.gate + row * a.dim : nullptr;
    float* y = a.y + row * a.dim;
    Vec s0{}, s1{}, s2{}, s3{};
    int i = 0;
    for (; i + 4 * kLanes <= a.dim; i += 4 * kLanes) {
      const Vec x0 = load(x + i), x1 = load(x + i + kLanes);
      const Vec x2 = load(x + i + 2 * kLanes), x3 = load(x + i + 3 * kLanes);
      s0 = multiply_add(x0, x0, s0);
      s1 = multiply_add(x1, x1, s1);
      s2 = multiply_add(x2, x2, s2);
      s3 = multiply_add(x3, x3, s3);
    }
    float squares = reduce_add((s0 + s1) + (s2 + s3));
    for (; i < a.dim; ++i) squares += x[i] * x[i];
    const float inverse = 1.0f / __builtin_sqrtf(squares / (float)a.dim + a.eps);
    i = 0;
    for (; i + kLanes <= a.dim; i += kLanes) {
      Vec value = load(x + i) * inverse * load(a.weight + i);
      if (gate) value *= silu(load(gate + i));
      store(y + i, value);
    }
    for (; i < a.dim; ++i) {
      float value = x[i] * inverse * a.weight[i];
      if (gate) value *= silu(broadcast(gate[i]))[0];
      y[i] = value;
    }
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
