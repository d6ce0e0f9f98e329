// The Hadamard transform of KvTransform, on floats in place. Stages within a vector are
// a shuffle and a multiply-add each, stages between vectors a sum and a difference.
// Included by *_simd.cpp only. Source: the fast Walsh-Hadamard transform.
#pragma once
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

/// Lane i of the result is lane i ^ kStep of v.
template <int kStep>
OPTIQ_INLINE Vec partner(Vec v) {
#if defined(__AVX512F__)
  if constexpr (kStep == 1) return (Vec)_mm512_permute_ps((__m512)v, 0xb1);
  if constexpr (kStep == 2) return (Vec)_mm512_permute_ps((__m512)v, 0x4e);
  if constexpr (kStep == 4)
    return (Vec)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0xb1);
  return (Vec)_mm512_shuffle_f32x4((__m512)v, (__m512)v, 0x4e);
#elif defined(__AVX2__)
  if constexpr (kStep == 1) return (Vec)_mm256_permute_ps((__m256)v, 0xb1);
  if constexpr (kStep == 2) return (Vec)_mm256_permute_ps((__m256)v, 0x4e);
  return (Vec)_mm256_permute2f128_ps((__m256)v, (__m256)v, 1);
#else
  if constexpr (kStep == 1) return (Vec)vrev64q_f32((float32x4_t)v);
  return (Vec)vextq_f32((float32x4_t)v, (float32x4_t)v, 2);
#endif
}

template <int kStep>
OPTIQ_INLINE Vec butterfly(Vec v) {
  Vec sign;
  for (int i = 0; i < kLanes; ++i) sign[i] = i & kStep ? -1.0f : 1.0f;
  return multiply_add(v, sign, partner<kStep>(v));
}

/// x = H x over blocks of powers of two, the largest first.
static void hadamard(float* x, int n) {
  while (n > 0) {
    int block = 1;
    while (2 * block <= n) block *= 2;
    int step = 1;
    if (block >= kLanes) {
      for (int i = 0; i < block; i += kLanes) {
        Vec v = butterfly<2>(butterfly<1>(load(x + i)));
        if constexpr (kLanes >= 8) v = butterfly<4>(v);
        if constexpr (kLanes >= 16) v = butterfly<8>(v);
        store(x + i, v);
      }
      for (step = kLanes; step < block; step *= 2)
        for (int i = 0; i < block; i += 2 * step)
          for (int j = i; j < i + step; j += kLanes) {
            const Vec a = load(x + j), b = load(x + j + step);
            store(x + j, a + b);
            store(x + j + step, a - b);
          }
    }
    for (; step < block; step *= 2)
      for (int i = 0; i < block; ++i)
        if (!(i & step)) {
          const float a = x[i], b = x[i + step];
          x[i] = a + b;
          x[i + step] = a - b;
        }
    x += block;
    n -= block;
  }
}

/// x *= factors, n values.
OPTIQ_INLINE void multiply_by(float* x, const float* factors, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * load(factors + i));
  for (; i < n; ++i) x[i] *= factors[i];
}

OPTIQ_INLINE void rotate(const float* signs, float* x, int n) {
  multiply_by(x, signs, n);
  hadamard(x, n);
}

OPTIQ_INLINE void rotate_back(const float* signs, float* x, int n) {
  hadamard(x, n);
  multiply_by(x, signs, n);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
