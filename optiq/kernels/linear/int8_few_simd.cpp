// y = x W^T for few rows of x (decode), x rounded to int8. Bound by the bytes of W.
//
// A step takes eight groups of a weight row (of two rows with AVX-512): codes become
// bytes (unpack.h), bytes become whole-number products, and the partial sums of eight
// groups are added across lanes together, so that lane g holds the product of group g.
// Scales and biases of the eight groups then lie in memory as the lanes do, and a lane
// is one of the eight chains of the definition (linear.h).
#include "optiq/kernels/linear/parts.h"
#include "optiq/kernels/linear/unpack.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

// Lanes of a step: kChains for each of kStepRows rows.
constexpr int kStepRows = kLanes > kChains ? kLanes / kChains : 1;
constexpr int kStepLanes = kChains * kStepRows;
typedef float Chains __attribute__((vector_size(4 * kStepLanes)));
typedef std::int32_t WholeChains __attribute__((vector_size(4 * kStepLanes)));
typedef float ChainsUnaligned
    __attribute__((vector_size(4 * kStepLanes), aligned(4), may_alias));

OPTIQ_INLINE void store_chains(float* p, Chains v) { *(ChainsUnaligned*)p = v; }

// Eight floats of any type from each row of the step.
OPTIQ_INLINE Chains load_groups(const void* const* row, std::int64_t g,
                                FloatType type) {
#if defined(__AVX512F__)
  if (type == FloatType::kF32) {
    const __m256 a = _mm256_loadu_ps((const float*)row[0] + g);
    const __m256 b = _mm256_loadu_ps((const float*)row[1] + g);
    return (Chains)_mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  }
  const __m128i a = _mm_loadu_si128((const __m128i*)((const std::uint16_t*)row[0] + g));
  const __m128i b = _mm_loadu_si128((const __m128i*)((const std::uint16_t*)row[1] + g));
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
  if (type == FloatType::kF16) return (Chains)_mm512_cvtph_ps(both);
  return (Chains)_mm512_slli_epi32(_mm512_cvtepu16_epi32(both), 16);
#elif defined(__AVX2__)
  const std::uint16_t* half = (const std::uint16_t*)row[0] + g;
  if (type == FloatType::kF32) return (Chains)load((const float*)row[0] + g);
  return (Chains)(type == FloatType::kF16 ? load_f16(half) : load_bf16(half));
#else
  Chains v;
  for (int i = 0; i < kChains; i += kLanes) {
    const std::uint16_t* half = (const std::uint16_t*)row[0] + g + i;
    const Vec part = type == FloatType::kF32   ? load((const float*)row[0] + g + i)
                     : type == FloatType::kF16 ? load_f16(half)
                                               : load_bf16(half);
    __builtin_memcpy((char*)&v + 4 * i, &part, sizeof part);
  }
  return v;
#endif
}

// The same eight values of x for each row of the step.
template <class T>
OPTIQ_INLINE auto load_shared(const T* p) {
  typedef T Eight __attribute__((vector_size(4 * kStepLanes)));
#if defined(__AVX512F__)
  return (Eight)_mm512_broadcast_f32x8(_mm256_loadu_ps((const float*)p));
#else
  Eight v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
#endif
}

#if defined(__AVX512F__)
// [a0 a1 a2 a3], [b0 b1 b2 b3] -> [a0+a1 a2+a3 b0+b1 b2+b3], lanes of 16 bytes.
OPTIQ_INLINE VecInt fold_lanes(VecInt a, VecInt b) {
  return (VecInt)_mm512_shuffle_i32x4((__m512i)a, (__m512i)b, 0x88) +
         (VecInt)_mm512_shuffle_i32x4((__m512i)a, (__m512i)b, 0xdd);
}
#elif defined(__AVX2__)
// [a0 a1], [b0 b1] -> [a0+a1 b0+b1], lanes of 16 bytes.
OPTIQ_INLINE VecInt fold_lanes(VecInt a, VecInt b) {
  return (VecInt)_mm256_permute2x128_si256((__m256i)a, (__m256i)b, 0x20) +
         (VecInt)_mm256_permute2x128_si256((__m256i)a, (__m256i)b, 0x31);
}
#endif

// In each lane of 16 bytes: element i of the result is the sum of v[i]'s four.
OPTIQ_INLINE VecInt add_within_lanes(const VecInt* v) {
#if defined(__AVX512F__)
  const __m512i a = (__m512i)v[0], b = (__m512i)v[1];
  const __m512i c = (__m512i)v[2], d = (__m512i)v[3];
  const __m512i ab =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd =
      _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return (VecInt)_mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd),
                                  _mm512_unpackhi_epi64(ab, cd));
#elif defined(__AVX2__)
  const __m256i a = (__m256i)v[0], b = (__m256i)v[1];
  const __m256i c = (__m256i)v[2], d = (__m256i)v[3];
  const __m256i ab =
      _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd =
      _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  return (VecInt)_mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd),
                                  _mm256_unpackhi_epi64(ab, cd));
#else
  return (VecInt)vpaddq_s32(vpaddq_s32((int32x4_t)v[0], (int32x4_t)v[1]),
                            vpaddq_s32((int32x4_t)v[2], (int32x4_t)v[3]));
#endif
}

// Whole-number products of eight groups for each row of the step and each of kM rows
// of x: dots[m], a lane per group.
template <int kBits, int kGroup, int kM>
OPTIQ_INLINE void group_dots(const std::uint8_t* const* w, const std::int8_t* const* x,
                             WholeChains* dots) {
  constexpr int kChunk = 32 * kBlocks;  // codes of a pair of vectors
  const auto product = [&](const Halves& h, int m, int chunk)
      __attribute__((always_inline)) {
    const std::int8_t* xc = x[m] + chunk * kChunk;
    return dot_two<kBits>(h.first, load_bytes(xc), h.second,
                          load_bytes(xc + kChunk / 2));
  };
  VecInt v[kM][8];
#if defined(__AVX512F__)
  // Each v[.][c]: two groups of row 0, then two of row 1; groups of 32: four of a row.
  if constexpr (kGroup == 32) {
    for (int c = 0; c < 4; ++c) {
      const Halves h = unpack_for_dot<kBits>(w[c / 2] + c % 2 * kChunkBytes<kBits>);
      for (int m = 0; m < kM; ++m) v[m][c] = product(h, m, c % 2);
    }
  } else {
    constexpr int kFolds = kGroup / 64;
    for (int c = 0; c < 4; ++c) {
      VecInt row[2][kM];
      for (int r = 0; r < 2; ++r)
        if constexpr (kFolds == 1) {
          const Halves h = unpack_for_dot<kBits>(w[r] + c * kChunkBytes<kBits>);
          for (int m = 0; m < kM; ++m) row[r][m] = product(h, m, c);
        } else {
          const Halves a = unpack_for_dot<kBits>(w[r] + 2 * c * kChunkBytes<kBits>);
          const Halves b =
              unpack_for_dot<kBits>(w[r] + (2 * c + 1) * kChunkBytes<kBits>);
          for (int m = 0; m < kM; ++m)
            row[r][m] = fold_lanes(product(a, m, 2 * c), product(b, m, 2 * c + 1));
        }
      for (int m = 0; m < kM; ++m) v[m][c] = fold_lanes(row[0][m], row[1][m]);
    }
  }
  const __m512i natural =
      kGroup == 32
          ? _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
          : _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  for (int m = 0; m < kM; ++m)
    dots[m] =
        (WholeChains)_mm512_permutexvar_epi32(natural, (__m512i)add_within_lanes(v[m]));
#elif defined(__AVX2__)
  if constexpr (kGroup == 32) {
    for (int c = 0; c < 4; ++c) {
      const Halves h = unpack_for_dot<kBits>(w[0] + c * kChunkBytes<kBits>);
      for (int m = 0; m < kM; ++m) v[m][c] = product(h, m, c);
    }
    const __m256i natural = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int m = 0; m < kM; ++m)
      dots[m] = (WholeChains)_mm256_permutevar8x32_epi32(
          (__m256i)add_within_lanes(v[m]), natural);
  } else {
    constexpr int kChunks = kGroup / 64;
    for (int c = 0; c < 4; ++c) {
      VecInt part[2][kM];
      for (int r = 0; r < 2; ++r)
        for (int j = 0; j < kChunks; ++j) {
          const int chunk = (c + 4 * r) * kChunks + j;
          const Halves h = unpack_for_dot<kBits>(w[0] + chunk * kChunkBytes<kBits>);
          for (int m = 0; m < kM; ++m) {
            const VecInt d = product(h, m, chunk);
            part[r][m] = j == 0 ? d : part[r][m] + d;
          }
        }
      for (int m = 0; m < kM; ++m) v[m][c] = fold_lanes(part[0][m], part[1][m]);
    }
    for (int m = 0; m < kM; ++m) dots[m] = (WholeChains)add_within_lanes(v[m]);
  }
#else
  constexpr int kChunks = kGroup / 32;
  for (int c = 0; c < 8; ++c)
    for (int j = 0; j < kChunks; ++j) {
      const int chunk = c * kChunks + j;
      const Halves h = unpack_for_dot<kBits>(w[0] + chunk * kChunkBytes<kBits>);
      for (int m = 0; m < kM; ++m) {
        const VecInt d = product(h, m, chunk);
        v[m][c] = j == 0 ? d : v[m][c] + d;
      }
    }
  for (int m = 0; m < kM; ++m) {
    const VecInt low = add_within_lanes(v[m]), high = add_within_lanes(v[m] + 4);
    __builtin_memcpy(&dots[m], &low, 16);
    __builtin_memcpy((char*)&dots[m] + 16, &high, 16);
  }
#endif
}

// c0 + c1 + ... + c7 of eight rows of chains.
OPTIQ_INLINE void add_chains(const float* chains, float* sums) {
#if defined(__AVX2__)
  __m256i t[8], u[8];
  for (int i = 0; i < 8; ++i) t[i] = _mm256_loadu_si256((const __m256i*)chains + i);
  for (int i = 0; i < 8; i += 2) {
    u[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
    u[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    t[i] = _mm256_unpacklo_epi64(u[i], u[i + 2]);
    t[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 2]);
    t[i + 2] = _mm256_unpacklo_epi64(u[i + 1], u[i + 3]);
    t[i + 3] = _mm256_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  __m256 sum = (__m256)_mm256_permute2x128_si256(t[0], t[4], 0x20);
  for (int i = 1; i < 4; ++i)
    sum += (__m256)_mm256_permute2x128_si256(t[i], t[i + 4], 0x20);
  for (int i = 0; i < 4; ++i)
    sum += (__m256)_mm256_permute2x128_si256(t[i], t[i + 4], 0x31);
  _mm256_storeu_ps(sums, sum);
#else
  for (int r = 0; r < 8; ++r) {
    float sum = chains[8 * r];
    for (int j = 1; j < 8; ++j) sum += chains[8 * r + j];
    sums[r] = sum;
  }
#endif
}

// What the last, incomplete step of a row reads: copies padded with zeros.
template <int kBits, int kGroup>
struct Tail {
  std::uint8_t codes[kStepRows][kGroup * kBits];  // eight groups
  std::uint32_t scales[kStepRows][kChains], biases[kStepRows][kChains];
};

template <int kBits, int kGroup, int kM>
void few(const MatrixView& w, const InputRows& rows, int first, int n_begin, int n_end,
         const Output& out) {
  constexpr int kStepBytes = kGroup * kBits;
  // Rows whose chains are added up together.
  constexpr int kBlockRows = kLanes > 8 ? kLanes : 8;
  const int groups = w.groups(), steps = groups / kChains, rest = groups % kChains;
  const std::int64_t row_bytes = w.row_bytes();
  const int scale_size = size_of(w.type);
  const std::int64_t ahead = bytes_ahead(kStepRows, row_bytes);
  alignas(64) float chains[kM][kBlockRows * kChains];
  for (int n0 = n_begin; n0 < n_end; n0 += kBlockRows) {
    const int valid = n_end - n0 < kBlockRows ? n_end - n0 : kBlockRows;
    for (int r = 0; r < valid; r += kStepRows) {
      const std::uint8_t* codes[kStepRows];
      const void* scales[kStepRows];
      const void* biases[kStepRows];
      for (int i = 0; i < kStepRows; ++i) {
        const std::int64_t n = n0 + (r + i < valid ? r + i : r);
        codes[i] = (const std::uint8_t*)w.weight + n * row_bytes;
        scales[i] = (const char*)w.scales + n * groups * scale_size;
        biases[i] = (const char*)w.biases + n * groups * scale_size;
      }
      Chains sum[kM] = {};
      const auto add_step = [&](const void* const* s, const void* const* b,
                                std::int64_t at, std::int64_t g)
          __attribute__((always_inline)) {
        const std::int8_t* x[kM];
        for (int m = 0; m < kM; ++m)
          x[m] = rows.codes + (first + m) * rows.stride + g * kGroup;
        WholeChains dots[kM];
        group_dots<kBits, kGroup, kM>(codes, x, dots);
        const Chains scale = load_groups(s, at, w.type);
        const Chains bias = load_groups(b, at, w.type);
        for (int m = 0; m < kM; ++m) {
          const std::int64_t i = (std::int64_t)(first + m) * rows.groups + g;
          if constexpr (kSignedCodes<kBits>)
            dots[m] += 128 * load_shared(rows.whole_sums + i);
          const Chains step_scale = scale * load_shared(rows.steps + i);
          sum[m] = __builtin_convertvector(dots[m], Chains) * step_scale + sum[m];
          sum[m] = bias * load_shared(rows.sums + i) + sum[m];
        }
      };
      for (int step = 0; step < steps; ++step) {
        for (int i = 0; i < kStepRows; ++i) prefetch_far(codes[i] + ahead, kStepBytes);
        add_step(scales, biases, (std::int64_t)step * kChains,
                 (std::int64_t)step * kChains);
        for (int i = 0; i < kStepRows; ++i) codes[i] += kStepBytes;
      }
      if (rest) {
        Tail<kBits, kGroup> tail = {};
        const void* tail_scales[kStepRows];
        const void* tail_biases[kStepRows];
        const std::int64_t done = (std::int64_t)steps * kChains * scale_size;
        for (int i = 0; i < kStepRows; ++i) {
          __builtin_memcpy(tail.codes[i], codes[i],
                           (std::size_t)(rest * kGroup * kBits / 8));
          __builtin_memcpy(tail.scales[i], (const char*)scales[i] + done,
                           (std::size_t)(rest * scale_size));
          __builtin_memcpy(tail.biases[i], (const char*)biases[i] + done,
                           (std::size_t)(rest * scale_size));
          codes[i] = tail.codes[i];
          tail_scales[i] = tail.scales[i];
          tail_biases[i] = tail.biases[i];
        }
        add_step(tail_scales, tail_biases, 0, (std::int64_t)steps * kChains);
      }
      for (int m = 0; m < kM; ++m) store_chains(chains[m] + r * kChains, sum[m]);
    }
    for (int m = 0; m < kM; ++m) {
      float sums[kBlockRows];
      for (int r = 0; r < kBlockRows; r += 8)
        add_chains(chains[m] + r * kChains, sums + r);
      store_sums<kBlockRows>(sums, first + m, n0 - n_begin, valid, out);
    }
  }
}

template <int kBits, int kGroup>
void few_of_any_m(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
                  const Output& out) {
  // More rows than one pass takes: the second finds W in the cache.
  constexpr int kPassRows = 32;
  for (int n = n_begin; n < n_end; n += kPassRows) {
    const int end = n_end - n < kPassRows ? n_end : n + kPassRows;
    const Output part = from_row(out, n - n_begin);
    int m = 0;
    for (; m + 4 <= rows.M; m += 4) few<kBits, kGroup, 4>(w, rows, m, n, end, part);
    if (rows.M & 2) {
      few<kBits, kGroup, 2>(w, rows, m, n, end, part);
      m += 2;
    }
    if (rows.M & 1) few<kBits, kGroup, 1>(w, rows, m, n, end, part);
  }
}

template <int kBits>
void few_of_any_group(const MatrixView& w, const InputRows& rows, int n_begin,
                      int n_end, const Output& out) {
  switch (w.spec.group_size) {
    case 32:
      return few_of_any_m<kBits, 32>(w, rows, n_begin, n_end, out);
    case 64:
      return few_of_any_m<kBits, 64>(w, rows, n_begin, n_end, out);
    case 128:
      return few_of_any_m<kBits, 128>(w, rows, n_begin, n_end, out);
  }
}

}  // namespace

void int8_few(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
              const Output& out, void*) {
  switch (w.spec.bits) {
    case 2:
      return few_of_any_group<2>(w, rows, n_begin, n_end, out);
    case 3:
      return few_of_any_group<3>(w, rows, n_begin, n_end, out);
    case 4:
      return few_of_any_group<4>(w, rows, n_begin, n_end, out);
    case 5:
      return few_of_any_group<5>(w, rows, n_begin, n_end, out);
    case 6:
      return few_of_any_group<6>(w, rows, n_begin, n_end, out);
    case 8:
      return few_of_any_group<8>(w, rows, n_begin, n_end, out);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
