// Vectors of bytes for the integer products, in the width of the SIMD target.
//
// A vector has kBlocks lanes of 16 bytes; in unpacked weights each lane belongs to one
// block of 32 codes (unpack.h). Included by *_simd.cpp only.
#pragma once
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

constexpr int kBlocks = kLanes / 4;

typedef std::uint8_t Bytes __attribute__((vector_size(16 * kBlocks)));
typedef std::uint16_t Words __attribute__((vector_size(16 * kBlocks)));
typedef std::uint32_t DWords __attribute__((vector_size(16 * kBlocks)));
typedef std::uint8_t BytesUnaligned
    __attribute__((vector_size(16 * kBlocks), aligned(1), may_alias));

OPTIQ_INLINE Bytes load_bytes(const void* p) { return *(const BytesUnaligned*)p; }
OPTIQ_INLINE void store_bytes(void* p, Bytes v) { *(BytesUnaligned*)p = v; }

/// All lanes of four bytes are those at p.
OPTIQ_INLINE Bytes broadcast_quad(const std::int8_t* p) {
  std::int32_t quad;
  __builtin_memcpy(&quad, p, 4);
#if defined(__AVX512F__)
  return (Bytes)_mm512_set1_epi32(quad);
#elif defined(__AVX2__)
  return (Bytes)_mm256_set1_epi32(quad);
#else
  return (Bytes)vdupq_n_s32(quad);
#endif
}

/// Within each 16-byte lane: table[index].
OPTIQ_INLINE Bytes lookup(Bytes table, Bytes index) {
#if defined(__AVX512F__)
  return (Bytes)_mm512_shuffle_epi8((__m512i)table, (__m512i)index);
#elif defined(__AVX2__)
  return (Bytes)_mm256_shuffle_epi8((__m256i)table, (__m256i)index);
#else
  return (Bytes)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)index);
#endif
}

/// Even bytes of `even`, odd bytes of `odd`, each masked.
OPTIQ_INLINE Bytes merge(Words even, Words odd, std::uint8_t mask) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_set1_epi16(0x00ff);
  const __m512i both =
      _mm512_ternarylogic_epi32(low, (__m512i)even, (__m512i)odd, 0xca);
  return (Bytes)_mm512_and_si512(both, _mm512_set1_epi8((char)mask));
#else
  const std::uint16_t m = mask;
  return (Bytes)((even & m) | (odd & (std::uint16_t)(m << 8)));
#endif
}

// Codes of eight bits do not fit the products of these targets, which multiply signed
// bytes (arm64) or saturate (AVX2): there the code minus 128 is multiplied, and 128
// times the sum of the activations is added to the product of a group.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool kHasDotProduct = true;
#else
constexpr bool kHasDotProduct = false;
#endif
template <int kBits>
constexpr bool kSignedCodes = kBits == 8 && !kHasDotProduct;

/// sum + the products of four neighbouring bytes, w of kBits (kSignedCodes: minus 128)
/// and x in [-127, 127].
template <int kBits>
OPTIQ_INLINE VecInt dot(VecInt sum, Bytes w, Bytes x) {
#if defined(__AVX512VNNI__)
  return (VecInt)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVXVNNI__)
  return (VecInt)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
#elif defined(__AVX2__)
  __m256i pairs;
  if constexpr (kBits == 8)  // |w| <= 128: pairs stay below 2^15
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w),
                                 _mm256_sign_epi8((__m256i)x, (__m256i)w));
  else
    pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)x);
  return sum + (VecInt)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  return (VecInt)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
#endif
}

/// The same for two vectors at once.
template <int kBits>
OPTIQ_INLINE VecInt dot_two(Bytes w0, Bytes x0, Bytes w1, Bytes x1) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
  if constexpr (kBits <= 6) {  // 4 * 63 * 127 < 2^15
    const __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)w0, (__m256i)x0),
                         _mm256_maddubs_epi16((__m256i)w1, (__m256i)x1));
    return (VecInt)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
#endif
  return dot<kBits>(dot<kBits>(VecInt{}, w0, x0), w1, x1);
}

/// rows[i][j] becomes rows[j][i]: kLanes vectors of kLanes four-byte values.
OPTIQ_INLINE void transpose(VecInt* rows) {
#if defined(__AVX512F__)
  __m512i t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32((__m512i)rows[i], (__m512i)rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = (VecInt)_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = (VecInt)_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = (VecInt)_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = (VecInt)_mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
#elif defined(__AVX2__)
  __m256i t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = (VecInt)_mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    rows[i + 4] = (VecInt)_mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
#else
  const int32x4x2_t a = vtrnq_s32((int32x4_t)rows[0], (int32x4_t)rows[1]);
  const int32x4x2_t b = vtrnq_s32((int32x4_t)rows[2], (int32x4_t)rows[3]);
  rows[0] = (VecInt)vcombine_s32(vget_low_s32(a.val[0]), vget_low_s32(b.val[0]));
  rows[1] = (VecInt)vcombine_s32(vget_low_s32(a.val[1]), vget_low_s32(b.val[1]));
  rows[2] = (VecInt)vcombine_s32(vget_high_s32(a.val[0]), vget_high_s32(b.val[0]));
  rows[3] = (VecInt)vcombine_s32(vget_high_s32(a.val[1]), vget_high_s32(b.val[1]));
#endif
}

}  // namespace optiq::kernels::OPTIQ_SIMD
