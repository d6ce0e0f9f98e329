// A lane's codes of a group as bytes, four to a register, in the order in which they
// come out of their words for the least instructions.
#pragma once
#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/linear/format_cuda.cuh"

namespace optiq::kernels::cuda {

/// True where one mask cuts every (8 / bits)-th code out of a word as bytes.
template <class F>
inline constexpr bool kCutsBytes = 8 % F::bits == 0 && F::lane_bits >= 32;

/// Which of a quarter's codes becomes byte i.
template <class F>
__host__ __device__ constexpr int code_of_byte(int i) {
  if (!kCutsBytes<F>) return i;
  constexpr int cuts = 8 / F::bits, in_word = 4 * cuts;
  const int word = i / in_word, cut = i % in_word / 4, byte = i % 4;
  return word * in_word + byte * cuts + cut;
}

/// Bytes 4 i to 4 i + 3.
template <class F>
__device__ std::uint32_t code_bytes(const std::uint32_t* words, int i) {
  constexpr int bits = F::bits;
  constexpr std::uint32_t ones = (1u << bits) - 1;
  if constexpr (bits == 8) {
    return words[i];
  } else if constexpr (kCutsBytes<F>) {
    constexpr int cuts = 8 / bits;
    return words[i / cuts] >> (bits * (i % cuts)) & ones * 0x01010101u;
  } else {
    // Two codes to each half of a register, then one to each byte.
    const int bit = 4 * i * bits, word = bit >> 5, shift = bit & 31;
    const std::uint32_t v = shift + 4 * bits > 32
                                ? __funnelshift_r(words[word], words[word + 1], shift)
                                : words[word] >> shift;
    const std::uint32_t pairs = chosen<0x0000ffffu>(v, v << (16 - 2 * bits));
    return chosen<0x00ff00ffu>(pairs, pairs << (8 - bits)) & ones * 0x01010101u;
  }
}

}  // namespace optiq::kernels::cuda
