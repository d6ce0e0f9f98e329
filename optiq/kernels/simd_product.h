// A product of two float matrices, small enough for the caches. Included by *_simd.cpp
// only.
#pragma once
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

/// C [M, N] = A [M, K] B [K, N], added to C unless `first`. Values of A lie anywhere by
/// two strides (so that A may be a transpose), rows of B and C one value after another.
/// B's rows can be read up to the next multiple of 2 kLanes columns.
///
/// The sum over K is one chain of multiply-adds in ascending order: the same bits for
/// every target.
struct SmallProduct {
  const float* a;
  std::int64_t a_row, a_column;
  const float* b;
  std::int64_t b_row;
  float* c;
  std::int64_t c_row;
  int M, N, K;
  bool first;
};

constexpr int kProductVectors = 2;
constexpr int kProductColumns = kProductVectors * kLanes;
constexpr int kProductRows = kLanes == 8 ? 6 : 12;

// A tile of kM rows and kProductColumns columns keeps its sums in registers while all
// of K goes by.
template <int kM>
OPTIQ_INLINE void multiply_tile(const SmallProduct& p, int m, int n) {
  Vec sum[kM][kProductVectors] = {};
  const float* b = p.b + n;
  const float* a[kM];
  for (int i = 0; i < kM; ++i) a[i] = p.a + (m + i) * p.a_row;
  for (int k = 0; k < p.K; ++k, b += p.b_row) {
    Vec bv[kProductVectors];
    for (int v = 0; v < kProductVectors; ++v) bv[v] = load(b + v * kLanes);
    for (int i = 0; i < kM; ++i) {
      const Vec av = broadcast(*a[i]);
      a[i] += p.a_column;
      for (int v = 0; v < kProductVectors; ++v)
        sum[i][v] = multiply_add(av, bv[v], sum[i][v]);
    }
  }
  const int valid = p.N - n < kProductColumns ? p.N - n : kProductColumns;
  for (int i = 0; i < kM; ++i) {
    float* c = p.c + (m + i) * p.c_row + n;
    if (valid == kProductColumns) {
      for (int v = 0; v < kProductVectors; ++v) {
        float* at = c + v * kLanes;
        store(at, p.first ? sum[i][v] : load(at) + sum[i][v]);
      }
      continue;
    }
    float sums[kProductColumns];
    for (int v = 0; v < kProductVectors; ++v) store(sums + v * kLanes, sum[i][v]);
    for (int j = 0; j < valid; ++j) c[j] = p.first ? sums[j] : c[j] + sums[j];
  }
}

template <int kM>
OPTIQ_INLINE int multiply_rows(const SmallProduct& p, int m, int n) {
  for (; m + kM <= p.M; m += kM) multiply_tile<kM>(p, m, n);
  return m;
}

OPTIQ_INLINE void multiply(const SmallProduct& p) {
  for (int n = 0; n < p.N; n += kProductColumns) {
    int m = multiply_rows<kProductRows>(p, 0, n);
    if constexpr (kProductRows > 8) m = multiply_rows<8>(p, m, n);
    m = multiply_rows<4>(p, m, n);
    m = multiply_rows<2>(p, m, n);
    multiply_rows<1>(p, m, n);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
