// A lane's codes of a small float format as halves, in the order in which they come out
// of their words for the least instructions.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/linear/format_cuda.cuh"

namespace optiq::kernels::cuda {

/// Which of a quarter's codes becomes half i.
template <class F>
__host__ __device__ constexpr int code_of_half(int i) {
  if (F::lane_bits < 32) return i;
  constexpr int half = 16 / F::bits;  // codes in half a word
  const int word = i / (2 * half), rest = i % (2 * half);
  return word * 2 * half + rest / 2 + (rest % 2) * half;
}

// Codes 2 p and 2 p + 1 of the order, in the low bits of a register's halves.
template <class F>
__device__ std::uint32_t code_pair(const std::uint32_t* words, int p) {
  constexpr std::uint32_t mask = (1u << F::bits) - 1;
  if constexpr (F::lane_bits >= 32) {
    constexpr int half = 16 / F::bits;
    return words[p / half] >> (F::bits * (p % half)) & (mask | mask << 16);
  } else {
    const auto code = [&](int i) { return words[0] >> (i * F::bits) & mask; };
    return code(2 * p) | code(2 * p + 1) << 16;
  }
}

/// Halves 2 p and 2 p + 1.
template <class F>
__device__ std::uint32_t value_pair(const std::uint32_t* words, int p) {
  const std::uint32_t raw = code_pair<F>(words, p);
  if constexpr (F::bits == 4) {
    // Its exponent's and mantissa's bits in the places of a half's, 2^14 too small.
    const std::uint32_t bits = (raw & 0x00080008u) << 12 | (raw & 0x00070007u) << 9;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(16384.0f)));
  } else {
    const std::uint32_t bits = (raw & 0x00800080u) << 8 | (raw & 0x007f007fu) << 7;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(256.0f)));
  }
}

}  // namespace optiq::kernels::cuda
