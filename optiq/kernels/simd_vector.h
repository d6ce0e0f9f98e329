// Float vectors of the width that a SIMD source is compiled for.
//
// A *_simd.cpp is compiled once per target (add_kernel in CMakeLists.txt), each time
// inside the namespace OPTIQ_SIMD. Everything here is force-inlined, so that no
// function of a wider instruction set can be linked where a narrower one is called; for
// the same reason such sources include nothing of the C++ library but <cstdint> and
// <cstddef>.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define OPTIQ_INLINE static inline __attribute__((always_inline))

namespace optiq::kernels::OPTIQ_SIMD {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Unaligned and free to alias, so that a dereference is a load or store.
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef float VecUnaligned
    __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

OPTIQ_INLINE Vec load(const float* p) { return *(const VecUnaligned*)p; }
OPTIQ_INLINE void store(float* p, Vec v) { *(VecUnaligned*)p = v; }
OPTIQ_INLINE Vec broadcast(float value) { return value - (Vec){}; }

/// a b + c in one rounding (the sources are compiled with -ffp-contract=fast).
OPTIQ_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }

OPTIQ_INLINE float reduce_add(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v),
                        _mm256_extractf128_ps((__m256)v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
#endif
}

// Where one operand is NaN, the second one is the result.
#if defined(__AVX512F__)
OPTIQ_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
OPTIQ_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
OPTIQ_INLINE Vec max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
OPTIQ_INLINE Vec min(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
OPTIQ_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
OPTIQ_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
#endif

// Requires no NaN.
OPTIQ_INLINE float reduce_max(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 m = _mm_max_ps(_mm256_castps256_ps128((__m256)v),
                        _mm256_extractf128_ps((__m256)v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
#else
  return vmaxvq_f32((float32x4_t)v);
#endif
}

OPTIQ_INLINE std::int32_t reduce_max(VecInt v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)v);
#elif defined(__AVX2__)
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v),
                            _mm256_extracti128_si256((__m256i)v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
#else
  return vmaxvq_s32((int32x4_t)v);
#endif
}

OPTIQ_INLINE std::int32_t reduce_add(VecInt v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#elif defined(__AVX2__)
  __m128i m = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v),
                            _mm256_extracti128_si256((__m256i)v, 1));
  m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
#else
  return vaddvq_s32((int32x4_t)v);
#endif
}

/// The low byte of each lane.
OPTIQ_INLINE void store_low_bytes(std::int8_t* p, VecInt v) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
  const __m256i index = _mm256_set1_epi32(0x0c080400);
  const __m256i low = _mm256_shuffle_epi8((__m256i)v, index);
  _mm_storel_epi64((__m128i*)p, _mm_unpacklo_epi32(_mm256_castsi256_si128(low),
                                                   _mm256_extracti128_si256(low, 1)));
#else
  const int8x8_t low = vmovn_s16(vcombine_s16(vmovn_s32((int32x4_t)v), vdup_n_s16(0)));
  __builtin_memcpy(p, &low, 4);
#endif
}

OPTIQ_INLINE Vec load_bf16(const std::uint16_t* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return (Vec)_mm512_slli_epi32(wide, 16);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return (Vec)_mm256_slli_epi32(wide, 16);
#else
  VecInt wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = (std::int32_t)((std::uint32_t)p[i] << 16);
  return (Vec)wide;
#endif
}

OPTIQ_INLINE Vec load_f16(const std::uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  return (Vec)vcvt_f32_f16(vld1_f16((const __fp16*)p));
#endif
}

OPTIQ_INLINE void store_f16(std::uint16_t* p, Vec v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p,
                      _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  vst1_f16((__fp16*)p, vcvt_f16_f32((float32x4_t)v));
#endif
}

/// Rounds to nearest even; NaN stays NaN.
OPTIQ_INLINE void store_bf16(std::uint16_t* p, Vec v) {
  typedef std::uint32_t Bits __attribute__((vector_size(4 * kLanes)));
  const Bits bits = (Bits)v;
  Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : ((bits >> 16) | 0x40);
  for (int i = 0; i < kLanes; ++i) p[i] = (std::uint16_t)rounded[i];
}

OPTIQ_INLINE Vec round_to_nearest(Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_roundscale_ps((__m512)v, 0);
#elif defined(__AVX2__)
  return (Vec)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return (Vec)vrndnq_f32((float32x4_t)v);
#endif
}

OPTIQ_INLINE VecInt to_int(Vec v) { return __builtin_convertvector(v, VecInt); }
OPTIQ_INLINE Vec to_float(VecInt v) { return __builtin_convertvector(v, Vec); }

/// e^x within 2 ulp for x in [-87, 88]; below that 0, above it about 2^127. NaN stays
/// NaN.
///
/// Source  x = n ln 2 + r, |r| <= ln 2 / 2, ln 2 in two parts (Cody and Waite); e^r by
///         its Taylor polynomial of degree 7, whose remainder is below 2^-27.
OPTIQ_INLINE Vec exp(Vec x) {
  const Vec clamped = min(broadcast(88.0f), max(broadcast(-87.3f), x));
  const Vec n = round_to_nearest(clamped * 1.44269504f);
  Vec r = multiply_add(n, broadcast(-0.693145752f), clamped);
  r = multiply_add(n, broadcast(-1.42860677e-6f), r);
  Vec p = broadcast(1.0f / 5040);
  p = multiply_add(p, r, broadcast(1.0f / 720));
  p = multiply_add(p, r, broadcast(1.0f / 120));
  p = multiply_add(p, r, broadcast(1.0f / 24));
  p = multiply_add(p, r, broadcast(1.0f / 6));
  p = multiply_add(p, r, broadcast(0.5f));
  p = multiply_add(p, r, broadcast(1.0f));
  p = multiply_add(p, r, broadcast(1.0f));
  const Vec power = (Vec)((to_int(n) + 127) << 23);
  return (Vec)((VecInt)(p * power) & ~(x < -87.3f));
}

/// x / (1 + e^-x).
OPTIQ_INLINE Vec silu(Vec x) { return x / (1.0f + exp(-x)); }
OPTIQ_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace optiq::kernels::OPTIQ_SIMD
