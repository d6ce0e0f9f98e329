// How a lane meets the codes of a format.
#pragma once
#include <algorithm>
#include <cstdint>

#include "optiq/kernels/quant_mode.h"

namespace optiq::kernels::cuda {

/// Values of a row in a step of a warp. Narrow codes need more of them under way to
/// keep the memory busy; of wide ones registers hold two steps of fewer.
__host__ __device__ constexpr int values_of_step(int bits, bool affine) {
  return bits <= 3 ? 512 : bits <= 5 || !affine ? 256 : 128;
}

/// One format. Four lanes share a group of a row, a quarter of its codes each.
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
  static constexpr int step = values_of_step(bits, affine);
  static constexpr int groups = step / group;
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

}  // namespace optiq::kernels::cuda
