// What a warp reads of its rows of weights, step by step.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/format_cuda.cuh"

namespace optiq::kernels::cuda {

// Where a lane's two rows lie: one and the eighth behind it, or the last where they are
// not there.
template <class F>
struct LaneRows {
  static constexpr int scale_size = F::affine ? 2 : 1;  // but of float32
  const std::uint8_t* codes_;
  const std::uint8_t* scales_;
  const std::uint8_t* biases_;
  unsigned second_codes, second_scales;  // from the first row to the second, bytes

  __device__ LaneRows(const FewRowsProduct& product, int row, unsigned row_bytes,
                      unsigned scale_bytes) {
    row = min(row, product.N - 1);
    const unsigned second = min(8, product.N - 1 - row);
    second_codes = second * row_bytes;
    second_scales = second * scale_bytes;
    const auto first = static_cast<std::uint64_t>(row);
    codes_ = product.w + first * row_bytes;
    scales_ = static_cast<const std::uint8_t*>(product.scales) + first * scale_bytes;
    biases_ = static_cast<const std::uint8_t*>(product.biases) + first * scale_bytes;
  }

  __device__ const std::uint8_t* codes(int h) const {
    return codes_ + h * second_codes;
  }
  __device__ const std::uint8_t* scales(int h) const {
    return scales_ + h * second_scales;
  }
  __device__ const std::uint8_t* biases(int h) const {
    return biases_ + h * second_scales;
  }
};

/// The scales of a step of a lane's two rows, or none that are kept: `wide` ones,
/// float32, are read at their use.
template <class F, bool wide>
struct StepScales {
  static constexpr int bytes = F::groups * (F::affine ? 2 : 1);
  static constexpr int words = (bytes + 3) / 4;
  std::uint32_t scales[2][words], biases[2][F::affine ? words : 1];

  __device__ void load(int K, const LaneRows<F>& rows, int begin) {
    if constexpr (wide) return;
    const unsigned first = static_cast<unsigned>(begin) / F::group;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (K % F::step == 0) {
        // Rows of whole steps lie at places for wide loads.
        load_words(rows.scales(h) + first * LaneRows<F>::scale_size, scales[h]);
        if constexpr (F::affine)
          load_words(rows.biases(h) + first * LaneRows<F>::scale_size, biases[h]);
      } else {
#pragma unroll
        for (int g = 0; g < F::groups; ++g) {
          if (begin + g * F::group >= K) break;
          pick_scale(rows.scales(h), first + g, g, scales[h]);
          if constexpr (F::affine) pick_scale(rows.biases(h), first + g, g, biases[h]);
        }
      }
    }
  }

  __device__ static void load_words(const std::uint8_t* at,
                                    std::uint32_t (&to)[words]) {
    if constexpr (bytes >= 16) {
#pragma unroll
      for (int i = 0; i < words; i += 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(at) + i / 4);
        to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
      }
    } else if constexpr (bytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
      to[0] = v.x, to[1] = v.y;
    } else if constexpr (bytes == 4) {
      to[0] = __ldg(reinterpret_cast<const std::uint32_t*>(at));
    } else {
      static_assert(bytes == 2);
      to[0] = __ldg(reinterpret_cast<const std::uint16_t*>(at));
    }
  }

  __device__ static void pick_scale(const std::uint8_t* row, int group, int g,
                                    std::uint32_t (&to)[words]) {
    constexpr int size = LaneRows<F>::scale_size;
    const std::uint32_t bits =
        size == 2 ? static_cast<std::uint32_t>(
                        reinterpret_cast<const std::uint16_t*>(row)[group])
                  : static_cast<std::uint32_t>(row[group]);
    const int shift = 8 * (g * size % 4);
    std::uint32_t& word = to[g * size / 4];
    word = (shift == 0 ? 0 : word) | bits << shift;
  }

  __device__ float scale(FloatType type, int K, const LaneRows<F>& rows, int h,
                         int begin, int g) const {
    return value(type, K, scales[h], rows.scales(h), begin, g);
  }
  __device__ float bias(FloatType type, int K, const LaneRows<F>& rows, int h,
                        int begin, int g) const {
    return value(type, K, biases[h], rows.biases(h), begin, g);
  }

 private:
  /// `type` is of affine scales.
  __device__ static float value(FloatType type, int K, const std::uint32_t* words,
                                const std::uint8_t* row, int begin, int g) {
    if constexpr (F::affine) {
      if constexpr (wide) {
        const int k = begin + g * F::group < K ? begin + g * F::group : 0;
        return reinterpret_cast<const float*>(row)[k / F::group];
      }
      const std::uint32_t bits = words[g / 2] >> (16 * (g % 2)) & 0xffff;
      return selected(
          type == FloatType::kBF16, __uint_as_float(bits << 16),
          __half2float(__ushort_as_half(static_cast<unsigned short>(bits))));
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

/// What a warp has read of its rows for one step. Behind the end of a row it keeps what
/// it had, which meets zeros of x.
template <class F, bool wide>
struct Step {
  std::uint32_t codes[F::groups][2][F::words] = {};
  StepScales<F, wide> scales{};

  /// `parted`: each group's loads are behind a test of their own, which costs a little
  /// and keeps fewer addresses in registers at once.
  template <bool parted = false>
  __device__ void load(int K, const LaneRows<F>& rows, int t, int begin) {
    const unsigned at = static_cast<unsigned>(begin) / 8 * F::bits;
    const auto load_group = [&](int g) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        load_quarter<F>(rows.codes(h) + at + g * (F::group / 8 * F::bits), t,
                        codes[g][h]);
    };
    if (!parted && begin + F::step <= K) {
#pragma unroll
      for (int g = 0; g < F::groups; ++g) load_group(g);
    } else {
#pragma unroll
      for (int g = 0; g < F::groups; ++g)
        if (begin + g * F::group < K) load_group(g);
    }
    scales.load(K, rows, begin);
  }
};

}  // namespace optiq::kernels::cuda
