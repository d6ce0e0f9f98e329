// A lane's codes of a group as halves: few_rows_cuda.cuh says in which order.
#pragma once
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/quant_mode.h"

namespace optiq::kernels::cuda {

/// One format.
template <QuantMode mode_, int bits_, int group_>
struct Format {
  static constexpr QuantMode mode = mode_;
  static constexpr int bits = bits_, group = group_;
  static constexpr int quarter = group / 4;  // codes of a lane in a group
  static constexpr int lane_bits = quarter * bits;
  static constexpr bool aligned = lane_bits % 32 == 0;  // quarters begin at words
  static constexpr int words = (lane_bits + 31) / 32;   // once they are shifted there
  static constexpr int words_read = [] {  // that hold a quarter, wherever it begins
    int most = 0;
    for (int t = 0; t < 4; ++t)
      most = std::max(most, (t * lane_bits % 32 + lane_bits + 31) / 32);
    return most;
  }();
  static constexpr bool affine = mode == QuantMode::kAffine;
  // Pairs of codes that one mask cuts out of a word.
  static constexpr bool halves = bits == 2 || bits == 4 || bits == 8;
  static constexpr int mmas = group / 16;
  // Narrow codes need more values under way to keep the memory busy.
  static constexpr int step = bits <= 3 ? 512 : 256;
  static constexpr int groups = step / group;

  // Which of a quarter's codes comes at place i of the order.
  __host__ __device__ static constexpr int code_at(int i) {
    if (!halves || lane_bits < 32) return i;
    constexpr int half = 16 / bits;  // codes in half a word
    const int word = i / (2 * half), rest = i % (2 * half);
    return word * 2 * half + rest / 2 + (rest % 2) * half;
  }
};

// The words of a quarter, its first code in the lowest bits of the first.
template <class F>
__device__ void load_quarter(const std::uint8_t* group, int t, std::uint32_t* words) {
  if constexpr (F::aligned) {
    const auto* from = reinterpret_cast<const std::uint32_t*>(group) + t * F::words;
    if constexpr (F::words % 4 == 0) {
#pragma unroll
      for (int i = 0; i < F::words; i += 4) {
        const uint4 v = __ldcs(reinterpret_cast<const uint4*>(from + i));
        words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
      }
    } else if constexpr (F::words % 2 == 0) {
#pragma unroll
      for (int i = 0; i < F::words; i += 2) {
        const uint2 v = __ldcs(reinterpret_cast<const uint2*>(from + i));
        words[i] = v.x, words[i + 1] = v.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < F::words; ++i) words[i] = __ldcs(from + i);
    }
  } else {
    // Of the group's whole words those that the quarter lies in.
    constexpr int in_group = F::group * F::bits / 32, read = F::words_read;
    const int bit = t * F::lane_bits, first = bit >> 5;
    const auto* from = reinterpret_cast<const std::uint32_t*>(group);
    std::uint32_t raw[read + 1];
#pragma unroll
    for (int i = 0; i < read; ++i) raw[i] = __ldcs(from + min(first + i, in_group - 1));
    raw[read] = 0;
#pragma unroll
    for (int i = 0; i < F::words; ++i)
      words[i] = __funnelshift_r(raw[i], raw[i + 1], bit & 31);
  }
}

// Pair p of the order: two codes as the halves of a register, `left` bits up.
template <class F, int left>
__device__ std::uint32_t raw_pair(const std::uint32_t* words, int p,
                                  std::uint32_t base = 0) {
  constexpr std::uint32_t mask = ((1u << F::bits) - 1) << left;
  const auto moved = [](std::uint32_t v, int right) {
    return right > 0 ? v >> right : v << -right;
  };
  if constexpr (F::halves && F::lane_bits >= 32) {
    constexpr int half = 16 / F::bits;
    return masked_onto<(mask | mask << 16)>(
        moved(words[p / half], F::bits * (p % half) - left), base);
  } else {
    const auto code = [&](int i) {
      const int bit = i * F::bits, word = bit >> 5, shift = bit & 31;
      std::uint32_t v = shift + F::bits > 32
                            ? __funnelshift_r(words[word], words[word + 1], shift)
                                  << left
                            : moved(words[word], shift - left);
      return v & mask;
    };
    return base | code(2 * p) | code(2 * p + 1) << 16;
  }
}

// What is left added to whole numbers: nothing where sums are to be exact, for it makes
// them larger, and their rounding with them.
template <class F, int parts>
inline constexpr float kOffset = !F::affine || parts == 2 ? 0.0f
                                 : F::bits == 8           ? 1024.0f
                                                          : 64.0f;

template <class F, int parts>
__device__ std::uint32_t value_pair(const std::uint32_t* words, int p) {
  if constexpr (F::affine) {
    // 1024 and ten bits of mantissa; or 64, whose mantissa's ones are bit 4.
    constexpr std::uint32_t base = F::bits == 8 ? 0x64006400u : 0x54005400u;
    const std::uint32_t raised = raw_pair<F, (F::bits == 8 ? 0 : 4)>(words, p, base);
    if constexpr (parts == 1) return raised;
    return bits_of(__hsub2(half2_of(raised), half2_of(base)));
  } else if constexpr (F::bits == 4) {
    // Its exponent's and mantissa's bits in the places of a half's, 2^14 too small.
    const std::uint32_t raw = raw_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00080008u) << 12 | (raw & 0x00070007u) << 9;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(16384.0f)));
  } else {
    const std::uint32_t raw = raw_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00800080u) << 8 | (raw & 0x007f007fu) << 7;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(256.0f)));
  }
}

}  // namespace optiq::kernels::cuda
