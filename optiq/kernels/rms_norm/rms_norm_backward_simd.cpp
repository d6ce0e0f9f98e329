// Two passes over a row in the first level cache: squares and the product with the
// gradient, then both gradients.
#include "optiq/kernels/rms_norm/rms_norm_backward.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

void rms_norm_backward_rows(const RmsNormBackwardArgs& args, std::int64_t begin,
                            std::int64_t end) {
  const RmsNormArgs& f = args.forward;
  const int n = f.dim;
  for (std::int64_t row = begin; row < end; ++row) {
    const float *x = f.x + row * n, *dy = args.dy + row * n;
    const float* gate = f.gate ? f.gate + row * n : nullptr;
    float* dx = args.dx + row * n;
    float* dgate = gate ? args.dgate + row * n : nullptr;
    Vec square_sums{}, along_sums{};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vec xv = load(x + i);
      Vec d = load(dy + i) * load(f.weight + i);
      if (gate) d *= silu(load(gate + i));
      square_sums = multiply_add(xv, xv, square_sums);
      along_sums = multiply_add(d, xv, along_sums);
    }
    float squares = reduce_add(square_sums), along = reduce_add(along_sums);
    for (int j = i; j < n; ++j) {
      float d = dy[j] * f.weight[j];
      if (gate) d *= silu(broadcast(gate[j]))[0];
      squares += x[j] * x[j];
      along += d * x[j];
    }
    const float r = 1.0f / __builtin_sqrtf(squares / (float)n + f.eps);
    const float back = r * r * along / (float)n;
    const auto one = [&](Vec xv, Vec d, Vec g, Vec & by_gate)
        __attribute__((always_inline)) {
      if (gate) {
        const Vec s = sigmoid(g);
        by_gate = d * xv * r * s * (1.0f + g * (1.0f - s));
        d *= g * s;
      }
      return r * (d - xv * back);
    };
    for (i = 0; i + kLanes <= n; i += kLanes) {
      Vec by_gate{};
      store(dx + i, one(load(x + i), load(dy + i) * load(f.weight + i),
                        gate ? load(gate + i) : Vec{}, by_gate));
      if (gate) store(dgate + i, by_gate);
    }
    for (; i < n; ++i) {
      Vec by_gate{};
      dx[i] = one(broadcast(x[i]), broadcast(dy[i] * f.weight[i]),
                  broadcast(gate ? gate[i] : 0), by_gate)[0];
      if (gate) dgate[i] = by_gate[0];
    }
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
