// The largest logit, then e^(x - largest), kept where a gradient is wanted, then its
// scaling. Four sums hide the latency of the additions; bound by the exponentials.
#include "optiq/kernels/cross_entropy/cross_entropy.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

OPTIQ_INLINE float largest_of(const float* x, int n) {
  float largest = x[0];
  int i = 0;
  if (n >= kLanes) {
    Vec top = load(x);
    for (i = kLanes; i + kLanes <= n; i += kLanes) top = max(top, load(x + i));
    for (int lane = 0; lane < kLanes; ++lane)
      largest = top[lane] > largest ? top[lane] : largest;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

}  // namespace

void cross_entropy_rows(const CrossEntropyArgs& a, std::int64_t begin,
                        std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* x = a.logits + row * a.vocab;
    const int n = a.vocab, target = a.targets[row];
    const float largest = largest_of(x, n), chosen = x[target];
    Vec s0{}, s1{};
    int i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      const Vec e0 = exp(load(x + i) - largest),
                e1 = exp(load(x + i + kLanes) - largest);
      s0 += e0;
      s1 += e1;
      if (a.gradient) {
        store(x + i, e0);
        store(x + i + kLanes, e1);
      }
    }
    float sum = reduce_add(s0 + s1);
    for (; i < n; ++i) {
      const float e = exp(broadcast(x[i] - largest))[0];
      sum += e;
      if (a.gradient) x[i] = e;
    }
    a.losses[row] = largest - chosen + __builtin_logf(sum);
    if (!a.gradient) continue;
    const float scale = a.weights[row] / sum;
    for (i = 0; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * scale);
    for (; i < n; ++i) x[i] *= scale;
    x[target] -= a.weights[row];
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
