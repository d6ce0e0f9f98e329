// Weights of any format as float vectors, for the exact kernels.
//
// A chunk is 8 kLanes values of a row, in the order of the format: natural for dense
// rows, code_at() within each block of 32 for codes. Included by *_simd.cpp only.
#pragma once
#include "optiq/kernels/linear/parts.h"
#include "optiq/kernels/linear/unpack.h"

namespace optiq::kernels::OPTIQ_SIMD {

constexpr int kChunk = 8 * kLanes;

template <FloatType kType>
struct DenseRow {
  const char* data;

  static inline __attribute__((always_inline)) DenseRow of(const MatrixView& w,
                                                           std::int64_t n) {
    return {(const char*)w.weight + n * w.K * size_of(kType)};
  }

  static constexpr int kChunkSize = kChunk * size_of(kType);
  inline __attribute__((always_inline)) const char* at(std::int64_t k) const {
    return data + k * size_of(kType);
  }

  inline __attribute__((always_inline)) void chunk(std::int64_t k, Vec* out) const {
    for (int i = 0; i < 8; ++i) out[i] = load_any(data, k + i * kLanes, kType);
  }

  // The last values [k, K), zeros behind them.
  inline __attribute__((always_inline)) void rest(std::int64_t k, int K,
                                                  Vec* out) const {
    char padded[kChunk * size_of(kType)] = {};
    __builtin_memcpy(padded, data + k * size_of(kType),
                     (std::size_t)((K - k) * size_of(kType)));
    for (int i = 0; i < 8; ++i) out[i] = load_any(padded, i * kLanes, kType);
  }
};

template <int kBits>
struct CodedRow {
  const std::uint8_t* codes;
  const char *scales, *biases;
  FloatType type;
  int group_shift, groups;

  static inline __attribute__((always_inline)) CodedRow of(const MatrixView& w,
                                                           std::int64_t n) {
    const std::int64_t at = n * w.groups() * size_of(w.type);
    return {(const std::uint8_t*)w.weight + n * w.row_bytes(),
            (const char*)w.scales + at,
            (const char*)w.biases + at,
            w.type,
            __builtin_ctz((unsigned)w.spec.group_size),
            w.groups()};
  }

  static constexpr int kChunkSize = kChunkBytes<kBits>;
  inline __attribute__((always_inline)) const char* at(std::int64_t k) const {
    return (const char*)codes + k * kBits / 8;
  }

  inline __attribute__((always_inline)) void dequantize(const std::uint8_t* from,
                                                        std::int64_t k,
                                                        Vec* out) const {
    const Halves h = unpack<kBits>(from);
    alignas(64) std::uint8_t bytes[2][16 * kBlocks];
    store_bytes(bytes[0], h.first);
    store_bytes(bytes[1], h.second);
    for (int i = 0; i < 8; ++i) {
      const int at = i * kLanes, block = at / 32;
      const std::uint8_t* p = bytes[at % 32 / 16] + 16 * block + at % 16;
#if defined(__AVX512F__)
      const Vec q = (Vec)_mm512_cvtepi32_ps(
          _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i*)p)));
#elif defined(__AVX2__)
      const Vec q = (Vec)_mm256_cvtepi32_ps(
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
      Vec q;
      for (int j = 0; j < kLanes; ++j) q[j] = p[j];
#endif
      std::int64_t g = (k + 32 * block) >> group_shift;
      if (g >= groups) g = groups - 1;
      out[i] = multiply_add(q, broadcast(float_at(scales, g, type)),
                            broadcast(float_at(biases, g, type)));
    }
  }

  inline __attribute__((always_inline)) void chunk(std::int64_t k, Vec* out) const {
    dequantize(codes + k * kBits / 8, k, out);
  }

  // The last weights [k, K); what stands behind them is finite where they are.
  inline __attribute__((always_inline)) void rest(std::int64_t k, int K,
                                                  Vec* out) const {
    std::uint8_t padded[kChunkBytes<kBits>] = {};
    __builtin_memcpy(padded, codes + k * kBits / 8, (std::size_t)((K - k) * kBits / 8));
    dequantize(padded, k, out);
  }
};

namespace detail {
template <class T>
struct Pointee;
template <class T>
struct Pointee<T*> {
  using Type = T;
};
}  // namespace detail

template <class Pointer>
using RowOf = typename detail::Pointee<Pointer>::Type;

/// Calls body with a null pointer of the row type of the matrix.
template <class Body>
OPTIQ_INLINE void with_row_type(const MatrixView& w, const Body& body) {
  if (!w.quantized()) {
    if (w.type == FloatType::kF32) return body((DenseRow<FloatType::kF32>*)nullptr);
    if (w.type == FloatType::kF16) return body((DenseRow<FloatType::kF16>*)nullptr);
    return body((DenseRow<FloatType::kBF16>*)nullptr);
  }
  switch (w.spec.bits) {
    case 2:
      return body((CodedRow<2>*)nullptr);
    case 3:
      return body((CodedRow<3>*)nullptr);
    case 4:
      return body((CodedRow<4>*)nullptr);
    case 5:
      return body((CodedRow<5>*)nullptr);
    case 6:
      return body((CodedRow<6>*)nullptr);
    case 8:
      return body((CodedRow<8>*)nullptr);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
