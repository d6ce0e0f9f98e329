// SIMD scans over one row of logits: the largest and its id, sums of exponentials, the
// ids above a threshold.
#pragma once
#include "optiq/kernels/sampling/logit_row.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

OPTIQ_INLINE bool any(VecInt mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  int bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= mask[i];
  return bits != 0;
#endif
}

/// The largest of a row, the lowest of its ids, and whether anything is NaN. A row that
/// holds nothing above -infinity gives -infinity and id 0.
OPTIQ_INLINE RowMax largest_of(const float* x, int n) {
  // Four streams, so that the compare's latency is hidden.
  Vec best[4];
  VecInt at[4], now[4], nan{};
  for (int s = 0; s < 4; ++s) {
    best[s] = broadcast(-__builtin_inff());
    at[s] = VecInt{};
    for (int i = 0; i < kLanes; ++i) now[s][i] = s * kLanes + i;
  }
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const Vec v = load(x + i + s * kLanes);
      const VecInt above = v > best[s];
      nan |= v != v;
      best[s] = above ? v : best[s];
      at[s] = above ? now[s] : at[s];
      now[s] += 4 * kLanes;
    }
  RowMax result{-__builtin_inff(), 0, any(nan)};
  for (int s = 0; s < 4; ++s)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = best[s][lane];
      const int id = at[s][lane];
      if (value > result.value || (value == result.value && id < result.id))
        result = {value, id, result.has_nan};
    }
  for (; i < n; ++i) {
    result.has_nan |= x[i] != x[i];
    if (x[i] > result.value) result = {x[i], i, result.has_nan};
  }
  return result;
}

/// sum e^((x - shift) scale) of a block of at most kLogitBlock.
OPTIQ_INLINE float sum_exp_block(const float* x, int n, float shift, float scale) {
  Vec s0{}, s1{};
  int i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    s0 += exp((load(x + i) - shift) * scale);
    s1 += exp((load(x + i + kLanes) - shift) * scale);
  }
  float sum = reduce_add(s0 + s1);
  for (; i < n; ++i) sum += exp(broadcast((x[i] - shift) * scale))[0];
  return sum;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
