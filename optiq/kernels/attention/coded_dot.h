// Integer products of a few rows with columns of codes (kv_page/code_tile.h).
#pragma once
#include "optiq/kernels/kv_page/code_tile.h"

namespace optiq::kernels::OPTIQ_SIMD {

#if defined(__AVX512F__)
constexpr int kDotRows = 6, kDotVectors = 4;
#elif defined(__AVX2__)
constexpr int kDotRows = 4, kDotVectors = 2;
#else
constexpr int kDotRows = 4, kDotVectors = 4;
#endif

/// How many columns' products of two bytes add up within 16 bits where there is no dot
/// product of four (|x| <= 127): 0 for signed codes, which take a way of their own.
constexpr int kWordSums8 = 0, kWordSums7 = 1, kWordSums6 = 2, kWordSums5 = 4,
              kWordSums4 = 8;

OPTIQ_INLINE int word_sums(const KvFormat& format) {
  if (format.kind == KvKind::kTurbo) return kWordSums7;
  return format.bits <= 4   ? kWordSums4
         : format.bits == 5 ? kWordSums5
         : format.bits == 6 ? kWordSums6
                            : kWordSums8;
}

/// sum[r][v] += x[r] . columns, `quads` columns of four bytes; vector v is part v %
/// kParts of the tile v / kParts.
///
/// Requires  quads a multiple of 8
template <int kRows, int kVectors, int kSums>
OPTIQ_INLINE void dot_columns(const std::int8_t* x, std::int64_t x_stride,
                              const std::uint8_t* columns, std::int64_t tile_stride,
                              int quads, VecInt (&sum)[kRows][kVectors]) {
  const auto column = [&](int quad, int v) __attribute__((always_inline)) {
    return load_bytes(columns + v / kParts * tile_stride + 64 * quad +
                      v % kParts * (int)sizeof(Bytes));
  };
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
  if constexpr (kSums > 1) {
    constexpr int kRun = kSums;
    for (int quad = 0; quad < quads; quad += kRun) {
      __m256i words[kRows][kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < kRun; ++i) {
        Bytes code[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) code[v] = column(quad + i, v);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
          const Bytes xr = broadcast_quad(x + r * x_stride + 4 * (quad + i));
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const __m256i pairs = _mm256_maddubs_epi16((__m256i)code[v], (__m256i)xr);
            words[r][v] = i == 0 ? pairs : _mm256_add_epi16(words[r][v], pairs);
            asm("" : "+x"(words[r][v]));  // else all products are made, then added
          }
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          sum[r][v] += (VecInt)_mm256_madd_epi16(words[r][v], _mm256_set1_epi16(1));
    }
    return;
  }
#endif
  for (int quad = 0; quad < quads; ++quad) {
    Bytes code[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) code[v] = column(quad, v);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const Bytes xr = broadcast_quad(x + r * x_stride + 4 * quad);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = dot < kSums == kWordSums8 ? 8 : 7 > (sum[r][v], code[v], xr);
    }
  }
}

/// Calls f.template operator()<kRows, kSums>(first row) until all rows are done.
template <int kSums, class F>
OPTIQ_INLINE void for_row_tiles(int rows, F&& f) {
  int row = 0;
  for (; row + kDotRows <= rows; row += kDotRows)
    f.template operator()<kDotRows, kSums>(row);
  switch (rows - row) {
    case 1:
      return f.template operator()<1, kSums>(row);
    case 2:
      return f.template operator()<2, kSums>(row);
    case 3:
      return f.template operator()<3, kSums>(row);
  }
  if constexpr (kDotRows > 4) {
    if (rows - row == 4) return f.template operator()<4, kSums>(row);
    if (rows - row == 5) return f.template operator()<5, kSums>(row);
  }
}

/// The same with the kSums of the format, where the target tells them apart.
template <class F>
OPTIQ_INLINE void for_row_tiles(const KvFormat& format, int rows, F&& f) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
  switch (word_sums(format)) {
    case kWordSums8:
      return for_row_tiles<kWordSums8>(rows, f);
    case kWordSums6:
      return for_row_tiles<kWordSums6>(rows, f);
    case kWordSums5:
      return for_row_tiles<kWordSums5>(rows, f);
    case kWordSums4:
      return for_row_tiles<kWordSums4>(rows, f);
  }
#endif
  for_row_tiles<kWordSums7>(rows, f);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
