// What a warp reads of its rows of weights, step by step.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/format_cuda.cuh"

namespace optiq::kernels::cuda {

// Where a lane's rows lie: one and every eighth behind it, of those that are there; the
// last again for those that are not.
template <class F>
struct LaneRows {
  static constexpr int scale_size = F::affine ? 2 : 1;  // but of float32
  const std::uint8_t* codes_;
  const std::uint8_t* scales_;
  const std::uint8_t* biases_;
  int behind;  // rows behind the first
  unsigned row_bytes, row_scale_bytes;

  __device__ LaneRows(const FewRowsProduct& product, int row, unsigned bytes,
                      unsigned scale_bytes)
      : row_bytes(bytes), row_scale_bytes(scale_bytes) {
    row = min(row, product.N - 1);
    behind = product.N - 1 - row;
    const auto first = static_cast<std::uint64_t>(row);
    codes_ = product.w + first * row_bytes;
    scales_ = static_cast<const std::uint8_t*>(product.scales) + first * scale_bytes;
    biases_ = static_cast<const std::uint8_t*>(product.biases) + first * scale_bytes;
  }

  __device__ const std::uint8_t* codes(int h) const {
    return codes_ + min(8 * h, behind) * row_bytes;
  }
  __device__ const std::uint8_t* scales(int h) const {
    return scales_ + min(8 * h, behind) * row_scale_bytes;
  }
  __device__ const std::uint8_t* biases(int h) const {
    return biases_ + min(8 * h, behind) * row_scale_bytes;
  }
};

// What a warp has read of its rows for one step. Behind the end of a row it reads the
// row's first group again, which meets zeros of x.
template <class F, bool wide, int n_rows = 2>
struct Step {
  static constexpr int scale_bytes = F::groups * (F::affine ? 2 : 1);
  static constexpr int scale_words = (scale_bytes + 3) / 4;
  std::uint32_t codes[F::groups][n_rows][F::words];
  std::uint32_t scales[n_rows][scale_words],
      biases[n_rows][F::affine ? scale_words : 1];

  __device__ void load(int K, const LaneRows<F>& rows, int t, int begin) {
    const auto from = static_cast<unsigned>(begin);
    // Rows of whole steps lie at places for wide loads.
    const bool whole = K % F::step == 0;
#pragma unroll
    for (int h = 0; h < n_rows; ++h) {
      if (whole) {
        const std::uint8_t* at = rows.codes(h) + from / 8 * F::bits;
#pragma unroll
        for (int g = 0; g < F::groups; ++g)
          load_quarter<F>(at + g * (F::group / 8 * F::bits), t, codes[g][h]);
        if constexpr (wide) continue;  // at their use
        const unsigned first = from / F::group * LaneRows<F>::scale_size;
        load_scales(rows.scales(h) + first, scales[h]);
        if constexpr (F::affine) load_scales(rows.biases(h) + first, biases[h]);
      } else {
#pragma unroll
        for (int g = 0; g < F::groups; ++g) {
          const unsigned k = begin + g * F::group < K ? from + g * F::group : 0;
          load_quarter<F>(rows.codes(h) + k / 8 * F::bits, t, codes[g][h]);
          if constexpr (wide) continue;
          pick_scale(rows.scales(h), k / F::group, g, scales[h]);
          if constexpr (F::affine)
            pick_scale(rows.biases(h), k / F::group, g, biases[h]);
        }
      }
    }
  }

  __device__ static void load_scales(const std::uint8_t* at,
                                     std::uint32_t (&to)[scale_words]) {
    if constexpr (scale_bytes >= 16) {
#pragma unroll
      for (int i = 0; i < scale_words; i += 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(at) + i / 4);
        to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
      }
    } else if constexpr (scale_bytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
      to[0] = v.x, to[1] = v.y;
    } else if constexpr (scale_bytes == 4) {
      to[0] = __ldg(reinterpret_cast<const std::uint32_t*>(at));
    } else {
      static_assert(scale_bytes == 2);
      to[0] = __ldg(reinterpret_cast<const std::uint16_t*>(at));
    }
  }

  __device__ static void pick_scale(const std::uint8_t* row, int group, int g,
                                    std::uint32_t (&to)[scale_words]) {
    constexpr int size = LaneRows<F>::scale_size;
    const std::uint32_t bits =
        size == 2 ? static_cast<std::uint32_t>(
                        reinterpret_cast<const std::uint16_t*>(row)[group])
                  : static_cast<std::uint32_t>(row[group]);
    const int shift = 8 * (g * size % 4);
    std::uint32_t& word = to[g * size / 4];
    word = (shift == 0 ? 0 : word) | bits << shift;
  }

  /// `type` is of affine scales.
  __device__ float scale(FloatType type, int K, const std::uint32_t* words,
                         const std::uint8_t* row, int from, int g) const {
    if constexpr (F::affine) {
      if constexpr (wide) {
        const int k = from + g * F::group < K ? from + g * F::group : 0;
        return reinterpret_cast<const float*>(row)[k / F::group];
      }
      const std::uint32_t bits = words[g / 2] >> (16 * (g % 2)) & 0xffff;
      return type == FloatType::kBF16
                 ? __uint_as_float(bits << 16)
                 : __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    } else {
      const std::uint32_t code = words[g / 4] >> (8 * (g % 4)) & 0xff;
      if constexpr (F::mode == QuantMode::kNvfp4) {
        const std::uint32_t bits = (code & 0x80u) << 8 | (code & 0x7fu) << 7;
        return __half2float(__ushort_as_half(static_cast<unsigned short>(bits))) *
               256.0f;
      } else {
        return code == 0 ? 0x1p-127f : __uint_as_float(code << 23);
      }
    }
  }
};

}  // namespace optiq::kernels::cuda
