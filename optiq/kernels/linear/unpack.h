// Packed codes of 2, 3, 4, 5, 6 or 8 bits as bytes.
//
// Codes are taken in blocks of 32 (4 bits bytes). A block becomes two halves of 16
// bytes in an order of its own, cheap to make and given by code_at(): activations are
// put into the same order once per call, and a dot product does not mind. Widths that
// cross byte borders are brought into 16-bit windows by one byte shuffle; two 16-bit
// windows of equal shift share 32 bits, for AVX2 shifts 32-bit lanes one by one but not
// 16-bit ones. Included by *_simd.cpp only.
#pragma once
#include "optiq/kernels/linear/bytes.h"

namespace optiq::kernels::OPTIQ_SIMD {

/// Which of the block's 32 codes comes at `position`: half position / 16, byte
/// position % 16.
constexpr int code_at(int bits, int position) {
  const int half = position / 16, byte = position % 16;
  switch (bits) {
    case 2:
      return 4 * (byte % 8) + 2 * half + byte / 8;
    case 3: {  // 32-bit lane: two windows of four codes
      const int lane = byte / 4;
      const int window = 4 * (lane / 2) + lane % 2 + 2 * (byte % 4 / 2);
      return 4 * window + 2 * half + byte % 2;
    }
    case 4:
      return 2 * byte + half;
    case 5: {  // 32-bit lane: windows i and i + 4, two codes each
      const int window = byte / 4 + 4 * (byte % 4 / 2);
      return 16 * half + 2 * window + byte % 2;
    }
    case 6: {
      const int lane = byte / 4;
      const int window = 4 * (lane / 2) + lane % 2 + 2 * (byte % 4 / 2);
      return 16 * half + 2 * window + byte % 2;
    }
    default:
      return position;
  }
}

/// Bytes of kBlocks blocks.
template <int kBits>
constexpr int kChunkBytes = 4 * kBits* kBlocks;

struct Halves {
  Bytes first, second;  // lane i: of block i
};

namespace detail {

// Byte indices that bring a half's windows (of 2 or 4 codes) to 16-bit lanes, where the
// half starts at byte `start` of each 16-byte lane, `start_odd` in odd lanes.
template <int kBits, int kCodes>
OPTIQ_INLINE Bytes window_index(int start, int start_odd) {
  Bytes index{};
  for (int i = 0; i < 16 * kBlocks; ++i) {
    const int byte = i % 16;
    const int code = code_at(kBits, byte - byte % 2) % (kCodes == 4 ? 32 : 16);
    const int window_bit = code / kCodes * kCodes * kBits;
    index[i] =
        (std::uint8_t)((i / 16 % 2 ? start_odd : start) + window_bit / 8 + byte % 2);
  }
  return index;
}

// The bits by which each 32-bit lane's windows stand too high.
template <int kBits, int kCodes>
OPTIQ_INLINE DWords window_shift() {
  DWords shift{};
  for (int i = 0; i < 4 * kBlocks; ++i) {
    const int code = code_at(kBits, 4 * (i % 4)) % (kCodes == 4 ? 32 : 16);
    shift[i] = (std::uint32_t)(code / kCodes * kCodes * kBits % 8);
  }
  return shift;
}

// One half of 5 or 6 bits from lanes that hold it.
template <int kBits>
OPTIQ_INLINE Bytes pairs_of(Bytes lanes, int start) {
  const Bytes windows = lookup(lanes, window_index<kBits, 2>(start, start));
  const Words t = (Words)((DWords)windows >> window_shift<kBits, 2>());
  return merge(t, t << (8 - kBits), (1 << kBits) - 1);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
OPTIQ_INLINE Bytes two_lanes(const void* low, const void* high) {
  const __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)low));
  return (Bytes)_mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i*)high), 1);
}
#endif

#if defined(__AVX512F__)
// Lane i of the result: four dwords from `first + stride i` on, of `low` (dwords 0..15)
// and `high` (dwords `skip`..skip + 15).
OPTIQ_INLINE Bytes dword_lanes(__m512i low, __m512i high, int first, int stride,
                               int skip) {
  VecInt index{};
  for (int i = 0; i < 16; ++i) {
    const int used = i % 4 < 3 ? i % 4 : 2;
    const int dword = first + stride * (i / 4) + used;
    index[i] = dword < 16 ? dword : 16 + dword - skip;
  }
  return (Bytes)_mm512_permutex2var_epi32(low, (__m512i)index, high);
}
#endif

}  // namespace detail

/// The codes of kBlocks blocks at p; reads kChunkBytes<kBits> bytes and no more.
template <int kBits>
OPTIQ_INLINE Halves unpack(const std::uint8_t* p) {
  using namespace detail;
  if constexpr (kBits == 4) {
    const Bytes v = load_bytes(p);
    return {v & 15, (Bytes)((Words)v >> 4) & 15};
  } else if constexpr (kBits == 8) {
#if defined(__AVX512F__)
    const __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
    return {(Bytes)_mm512_shuffle_i32x4(a, b, 0x88),
            (Bytes)_mm512_shuffle_i32x4(a, b, 0xdd)};
#elif defined(__AVX2__)
    return {two_lanes(p, p + 32), two_lanes(p + 16, p + 48)};
#else
    return {load_bytes(p), load_bytes(p + 16)};
#endif
  } else if constexpr (kBits == 2) {
    DWords shift{};  // 64-bit lanes: 0 and 2
    for (int i = 0; i < 4 * kBlocks; ++i) shift[i] = i % 4 / 2 * 2;
#if defined(__AVX512F__)
    const __m512i index = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
    const DWords v = (DWords)_mm512_permutexvar_epi64(
        index, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)p)));
#elif defined(__AVX2__)
    const DWords v = (DWords)_mm256_permute4x64_epi64(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)p)), 0x50);
#else
    const DWords v = (DWords)vcombine_u8(vld1_u8(p), vld1_u8(p));
#endif
    const DWords t = v >> shift;
    return {(Bytes)t & 3, (Bytes)(t >> 4) & 3};
  } else if constexpr (kBits == 3) {
    int start_odd = 0;
#if defined(__AVX512F__)
    const __m512i v = _mm512_maskz_loadu_epi32(0xfff, p);
    const Bytes lanes = dword_lanes(v, v, 0, 3, 0);
#elif defined(__AVX2__)
    const Bytes lanes = two_lanes(p, p + 8);
    start_odd = 4;
#else
    std::uint32_t last;
    __builtin_memcpy(&last, p + 8, 4);
    const Bytes lanes = (Bytes)vcombine_u8(vld1_u8(p), (uint8x8_t)vdup_n_u32(last));
#endif
    const Bytes windows = lookup(lanes, window_index<3, 4>(0, start_odd));
    const Words t = (Words)((DWords)windows >> window_shift<3, 4>());
    return {merge(t, t << 5, 7), merge(t >> 6, t >> 1, 7)};
  } else {
#if defined(__AVX512F__)
    constexpr int kSkip = kBits == 5 ? 4 : 8;
    const __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 4 * kSkip);
    return {pairs_of<kBits>(dword_lanes(a, b, 0, kBits, kSkip), 0),
            pairs_of<kBits>(dword_lanes(a, b, kBits / 2, kBits, kSkip), 2 * kBits % 4)};
#elif defined(__AVX2__)
    constexpr int kSecond = 4 * kBits - 16;  // the last 16 bytes of a block
    return {pairs_of<kBits>(two_lanes(p, p + 4 * kBits), 0),
            pairs_of<kBits>(two_lanes(p + kSecond, p + 4 * kBits + kSecond),
                            2 * kBits - kSecond)};
#else
    constexpr int kSecond = 4 * kBits - 16;
    return {pairs_of<kBits>(load_bytes(p), 0),
            pairs_of<kBits>(load_bytes(p + kSecond), 2 * kBits - kSecond)};
#endif
  }
}

/// The same as dot() takes them.
template <int kBits>
OPTIQ_INLINE Halves unpack_for_dot(const std::uint8_t* p) {
  const Halves h = unpack<kBits>(p);
  if constexpr (kSignedCodes<kBits>) return {h.first ^ 0x80, h.second ^ 0x80};
  return h;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
