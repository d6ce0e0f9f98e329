// A lane's codes of a group as halves, in the order in which they come out of their
// words for the least instructions.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/linear/format_cuda.cuh"

namespace optiq::kernels::cuda {

/// True where one mask cuts a code out of each half of a word.
template <class F>
inline constexpr bool kCutsPairs = 16 % F::bits == 0 && F::lane_bits >= 32;

/// Which of a quarter's codes becomes half i.
template <class F>
__host__ __device__ constexpr int code_of_half(int i) {
  if (!kCutsPairs<F>) return i;
  constexpr int half = 16 / F::bits;  // codes in half a word
  const int word = i / (2 * half), rest = i % (2 * half);
  return word * 2 * half + rest / 2 + (rest % 2) * half;
}

/// A register with codes 2 p and 2 p + 1 of the order `at` bits up in its halves; other
/// bits are any.
template <class F, int at>
__device__ std::uint32_t code_pair(const std::uint32_t* words, int p) {
  const auto moved = [](std::uint32_t v, int down) {
    return down < 0 ? v << -down : v >> down;
  };
  if constexpr (kCutsPairs<F>) {
    constexpr int half = 16 / F::bits;
    return moved(words[p / half], F::bits * (p % half) - at);
  } else {
    const int bit = 2 * p * F::bits, word = bit >> 5, down = (bit & 31) - at;
    const std::uint32_t v = (bit & 31) + 2 * F::bits > 32
                                ? __funnelshift_r(words[word], words[word + 1], down)
                                : moved(words[word], down);
    return chosen<0x0000ffffu>(v, v << (16 - F::bits));
  }
}

/// What value_pair adds to the whole numbers that affine codes are: the leading one
/// that makes them a half's mantissa.
template <class F>
inline constexpr int kRaised = 1 << F::bits;

/// Halves 2 p and 2 p + 1: whole numbers of affine codes, raised; values of small
/// floats.
template <class F>
__device__ std::uint32_t value_pair(const std::uint32_t* words, int p) {
  if constexpr (F::affine) {
    constexpr int at = 10 - F::bits;  // the mantissa's upper bits
    constexpr std::uint32_t code = kRaised<F> - 1, exponent = (15 + F::bits) << 10;
    return masked_onto<(code | code << 16) << at>(code_pair<F, at>(words, p),
                                                  exponent | exponent << 16);
  } else if constexpr (F::bits == 4) {
    // Its exponent's and mantissa's bits in the places of a half's, 2^14 too small.
    const std::uint32_t raw = code_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00080008u) << 12 | (raw & 0x00070007u) << 9;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(16384.0f)));
  } else {
    const std::uint32_t raw = code_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00800080u) << 8 | (raw & 0x007f007fu) << 7;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(256.0f)));
  }
}

}  // namespace optiq::kernels::cuda
