// Several floats at a time, in GCC's vector extension, for the searches of this folder.
//
// The sources that include this are compiled without fused multiply-add: their builds
// for different instruction sets then give the same bits.
#pragma once
#include <cstdint>

/// Builds a function for several instruction sets; the loader picks one. Everything it
/// calls must be force-inlined.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OPTIQ_MULTI_TARGET __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define OPTIQ_MULTI_TARGET
#endif
#define OPTIQ_INLINE static inline __attribute__((always_inline))

namespace optiq::quantize {

// No wider than registers: GCC 12 splits wider comparisons into single values, which
// made AVX2 five times slower at 16 lanes. With AVX-512, 16 lanes were no faster
// than 8.
#if defined(__x86_64__)
inline constexpr int kSearchLanes = 8;
#else
inline constexpr int kSearchLanes = 4;
#endif

typedef float Lanes __attribute__((vector_size(4 * kSearchLanes)));
typedef std::int32_t Ints __attribute__((vector_size(4 * kSearchLanes)));
typedef float LanesUnaligned
    __attribute__((vector_size(4 * kSearchLanes), aligned(4), may_alias));
typedef unsigned char Bytes
    __attribute__((vector_size(kSearchLanes), aligned(1), may_alias));
typedef double Doubles __attribute__((vector_size(8 * kSearchLanes)));

OPTIQ_INLINE Lanes load(const float* p) { return *(const LanesUnaligned*)p; }
OPTIQ_INLINE void store(float* p, Lanes v) { *(LanesUnaligned*)p = v; }
OPTIQ_INLINE Lanes splat(float x) { return x - (Lanes){}; }
OPTIQ_INLINE Lanes minimum(Lanes a, Lanes b) { return a < b ? a : b; }
OPTIQ_INLINE Lanes maximum(Lanes a, Lanes b) { return a > b ? a : b; }
OPTIQ_INLINE Lanes magnitude(Lanes a) { return (Lanes)((Ints)a & 0x7fffffff); }

OPTIQ_INLINE Lanes square_root(Lanes x) {
  for (int i = 0; i < kSearchLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

/// Rounds 0 <= x < 2^22 to the nearest integer, ties to even: adding 1.5 2^23 leaves no
/// bits below the point.
OPTIQ_INLINE Lanes round_small(Lanes x) { return (x + 12582912.0f) - 12582912.0f; }

}  // namespace optiq::quantize
