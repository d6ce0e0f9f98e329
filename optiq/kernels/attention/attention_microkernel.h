// The two products of attention on register tiles: scores = q k^T and sums += p v.
//
// Both are c[r][:] = c[r][:] factor[r] + sum_j a[r][j] b[j][:], a broadcast, b in
// vectors, j in order with one multiply-add each. That order, and so each bit of the
// result, is the same for every tile shape here.
#pragma once
#include "optiq/kernels/attention/attention_transpose.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

typedef std::uint16_t Half;
struct BFloat {
  std::uint16_t bits;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kAccumulators = 12;  // of 16 registers
#else
constexpr int kAccumulators = 24;  // of 32 registers
#endif
constexpr int kMicroRows = 6;
constexpr int kPanelVectors = kAccumulators / kMicroRows;
constexpr int kPanelKeys = kPanelVectors * kLanes;  // keys of one score tile

OPTIQ_INLINE Vec load_value(const float* p) { return load(p); }
OPTIQ_INLINE Vec load_value(const Half* p) { return load_f16(p); }
OPTIQ_INLINE Vec load_value(const BFloat* p) { return load_bf16(&p->bits); }

/// The first n < kLanes values, then zeros.
template <class Value>
OPTIQ_INLINE Vec load_first(const Value* p, int n) {
  Value values[kLanes] = {};
  for (int i = 0; i < n; ++i) values[i] = p[i];
  return load_value(values);
}

/// Asks for a line on its way from memory to the second-level cache. The first is too
/// small for what is under way to two streams.
OPTIQ_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// c [ROWS, VECS kLanes] = factor c + a b; no factor: c is not read. Asks for what lies
// `ahead` values behind b, where that is not 0.
template <int ROWS, int VECS, class Value>
OPTIQ_INLINE void multiply_tile(const float* a, std::int64_t a_stride, const Value* b,
                                std::int64_t b_stride, int depth, float* c,
                                std::int64_t c_stride, const float* factor,
                                std::int64_t ahead) {
  Vec sum[ROWS][VECS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECS; ++v)
      sum[r][v] = factor ? load(c + r * c_stride + v * kLanes) * factor[r] : (Vec){};
  for (int j = 0; j < depth; ++j, b += b_stride) {
    Vec value[VECS];
#pragma GCC unroll 8
    for (int v = 0; v < VECS; ++v) {
      value[v] = load_value(b + v * kLanes);
      if (ahead) prefetch(b + ahead + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec x = broadcast(a[r * a_stride + j]);
#pragma GCC unroll 8
      for (int v = 0; v < VECS; ++v) sum[r][v] = multiply_add(x, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < VECS; ++v) store(c + r * c_stride + v * kLanes, sum[r][v]);
}

/// Vectors of b beside each other for a tile of so many rows: a power of two.
constexpr int tile_vectors(int rows) {
  int n = 8;
  while (n * rows > kAccumulators) n /= 2;
  return n;
}

// All `vectors` of ROWS rows: wide tiles, then narrower ones.
template <int ROWS, int VECS, class Value>
OPTIQ_INLINE void multiply_rows(const float* a, std::int64_t a_stride, const Value* b,
                                std::int64_t b_stride, int depth, float* c,
                                std::int64_t c_stride, const float* factor, int vectors,
                                std::int64_t ahead) {
  for (; vectors >= VECS; vectors -= VECS) {
    multiply_tile<ROWS, VECS, Value>(a, a_stride, b, b_stride, depth, c, c_stride,
                                     factor, ahead);
    b += VECS * kLanes;
    c += VECS * kLanes;
  }
  if constexpr (VECS > 1)
    if (vectors > 0)
      multiply_rows<ROWS, VECS / 2, Value>(a, a_stride, b, b_stride, depth, c, c_stride,
                                           factor, vectors, ahead);
}

/// c [rows, vectors kLanes] = factor c + a [rows, depth] b [depth, vectors kLanes].
template <class Value>
static void multiply(int rows, const float* a, std::int64_t a_stride, const Value* b,
                     std::int64_t b_stride, int depth, float* c, std::int64_t c_stride,
                     const float* factor, int vectors, std::int64_t ahead = 0) {
#define OPTIQ_ROWS(n)                                                          \
  multiply_rows<n, tile_vectors(n), Value>(a, a_stride, b, b_stride, depth, c, \
                                           c_stride, factor, vectors, ahead)
  while (rows > 0) {
    const int n = rows < kMicroRows ? rows : kMicroRows;
    switch (n) {
      case 1:
        OPTIQ_ROWS(1);
        break;
      case 2:
        OPTIQ_ROWS(2);
        break;
      case 3:
        OPTIQ_ROWS(3);
        break;
      case 4:
        OPTIQ_ROWS(4);
        break;
      case 5:
        OPTIQ_ROWS(5);
        break;
      default:
        OPTIQ_ROWS(6);
        break;
    }
    a += n * a_stride;
    c += n * c_stride;
    if (factor) factor += n;
    rows -= n;
    ahead = 0;  // the first rows have asked
  }
#undef OPTIQ_ROWS
}

/// kLanes keys by kLanes of their values, transposed: columns[i] holds value i of each
/// key. Keys from n on repeat the last one, so nothing past it is read.
template <class Value>
OPTIQ_INLINE void load_transposed(const Value* k, std::int64_t stride, int n, int width,
                                  Vec* columns) {
#pragma GCC unroll 16
  for (int j = 0; j < kLanes; ++j) {
    const Value* row = k + (j < n ? j : n - 1) * stride;
    columns[j] = width < kLanes ? load_first(row, width) : load_value(row);
  }
  transpose(columns);
}

/// scores [ROWS, keys] straight from the keys, each read once: for tiles of few rows.
/// `ahead` as above.
template <int ROWS, class Value>
OPTIQ_INLINE void score_few(const float* q, std::int64_t q_stride, int dim,
                            const Value* k, std::int64_t k_stride, int keys,
                            float* scores, std::int64_t score_stride,
                            std::int64_t ahead) {
  for (int j = 0; j < keys; j += kLanes) {
    Vec sum[ROWS] = {};
    const Value* block = k + j * k_stride;
    const int n = keys - j;
    for (int d = 0; d < dim; d += kLanes) {
      Vec columns[kLanes];
      // In the order in which the lines lie in memory.
      if (ahead)
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i += 64 / (kLanes * (int)sizeof(Value)))
          prefetch(block + ahead + d * kLanes + i * kLanes);
      load_transposed(block + d, k_stride, n, dim - d, columns);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r)
          sum[r] = multiply_add(broadcast(q[r * q_stride + d + i]), columns[i], sum[r]);
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) store(scores + r * score_stride + j, sum[r]);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
