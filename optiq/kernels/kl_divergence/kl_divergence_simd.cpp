// Three passes over two rows that lie in the second-level cache after the first: the
// largest logits; the mean difference c; the sum of p f(d - c). Sums of a block of 512
// are in float, the sum of blocks in double. Bound by exponentials.
#include "optiq/kernels/kl_divergence/kl_divergence.h"
#include "optiq/kernels/sampling/logit_scan.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

// Above this exponent, e^x and sums of it near the end of float's range.
constexpr float kLargestExponent = 60;

// w f(t) = w (e^-t - 1 + t) for w = e^x. Near zero by its Taylor polynomial, whose
// next term is below 2^-24 of it for |t| < 1/2; elsewhere as e^(x - t) - w (1 - t), so
// that a small w and a large e^-t meet in one exponential.
OPTIQ_INLINE Vec excess(Vec w, Vec x, Vec t) {
  Vec near = broadcast(-1.0f / 40320 / 9);
  near = multiply_add(near, t, broadcast(1.0f / 40320));
  near = multiply_add(near, t, broadcast(-1.0f / 5040));
  near = multiply_add(near, t, broadcast(1.0f / 720));
  near = multiply_add(near, t, broadcast(-1.0f / 120));
  near = multiply_add(near, t, broadcast(1.0f / 24));
  near = multiply_add(near, t, broadcast(-1.0f / 6));
  near = multiply_add(near, t, broadcast(0.5f));
  const Vec far = exp(x - t) - w * (1.0f - t);
  const VecInt is_near = (t < 0.5f) & (t > -0.5f);
  return is_near ? w * near * t * t : far;
}

OPTIQ_INLINE Vec load_some(const float* p, int n, float rest) {
  if (n >= kLanes) return load(p);
  Vec v = broadcast(rest);
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}

}  // namespace

KlRow kl_row(const float* reference, const float* other, int vocab) {
  const RowMax p = largest_of(reference, vocab), q = largest_of(other, vocab);
  const bool same = p.id == q.id;
  double weights = 0, differences = 0;
  for (int begin = 0; begin < vocab; begin += kLogitBlock) {
    const int end = begin + kLogitBlock < vocab ? begin + kLogitBlock : vocab;
    Vec weight{}, difference{};
    for (int i = begin; i < end; i += kLanes) {
      // Past the end: no weight and no difference.
      const Vec a = load_some(reference + i, end - i, p.value - 200);
      const Vec b = load_some(other + i, end - i, p.value - 200);
      const Vec w = exp(a - p.value);
      weight += w;
      difference = multiply_add(w, a - b, difference);
    }
    weights += reduce_add(weight);
    differences += reduce_add(difference);
  }
  const float mean = (float)(differences / weights);
  const double rest = differences / weights - mean;
  // The largest x - t below is that of the largest logit of `other`.
  if (!(q.value + mean - p.value < kLargestExponent) || p.has_nan || q.has_nan)
    return {0, same, false};
  double sum = 0;
  for (int begin = 0; begin < vocab; begin += kLogitBlock) {
    const int end = begin + kLogitBlock < vocab ? begin + kLogitBlock : vocab;
    Vec excesses{};
    for (int i = begin; i < end; i += kLanes) {
      const Vec a = load_some(reference + i, end - i, p.value - 200);
      const Vec b = load_some(other + i, end - i, p.value - 200 - mean);
      const Vec x = a - p.value;
      excesses += excess(exp(x), x, (a - b) - mean);
    }
    sum += reduce_add(excesses);
  }
  // With c rounded to float, sum p t is `rest`: KL = rest + log(1 + sum p f(t) - rest).
  const double kl = rest + __builtin_log1p(sum / weights - rest);
  return {kl > 0 ? kl : 0, same, kl - kl == 0};
}

double log_sum_exp_row(const float* logits, int vocab) {
  const RowMax largest = largest_of(logits, vocab);
  double sum = 0;
  for (int begin = 0; begin < vocab; begin += kLogitBlock) {
    const int n = vocab - begin < kLogitBlock ? vocab - begin : kLogitBlock;
    sum += sum_exp_block(logits + begin, n, largest.value, 1);
  }
  return largest.value + __builtin_log(sum);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
