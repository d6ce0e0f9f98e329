// What a warp does with a step of affine weights: products with rows of X on tensor
// cores, scaled once a group.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/code_bytes.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/weight_steps.cuh"

namespace optiq::kernels::cuda {

/// How K is cut: into at most eight ranges of equally many steps, but for the last.
struct Ranges {
  int steps, length, n;

  static __host__ __device__ Ranges of(int K, int step) {
    const int steps = (K + step - 1) / step, length = (steps + 7) / 8;
    return {steps, length, (steps + length - 1) / length};
  }
  template <class F>
  static __host__ __device__ Ranges of(int K) {
    return of(K, F::step);
  }
};

/// The bytes of a quarter as registers.
template <int n>
__device__ inline void load_bytes(const std::int8_t* from, std::uint32_t (&to)[n]) {
  if constexpr (n == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + 4 * i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}

/// Where lane 4 r + t finds its columns of X: of each tile the high or low bytes of row
/// r / 2, the sums of row t. Of rows that are not there some other's values do: their
/// sums go nowhere.
template <class F, int tiles>
struct LaneX {
  ReadyX x;
  int bytes[tiles], sums[tiles];

  __device__ LaneX(const ReadyX& of, int x_rows) : x(of) {
    const int n_groups = x.groups;
    const int r = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      const int column_row = min(n * 4 + r / 2, x_rows - 1);
      bytes[n] = (column_row * n_groups * 2 + r % 2) * F::group + t * F::quarter;
      sums[n] = min(n * 4 + t, x_rows - 1) * n_groups;
    }
  }
  /// Of a group of a row of X the bytes, and its step and sum.
  __device__ void load(int n, int group, std::uint32_t (&to)[F::quarter / 4]) const {
    load_bytes(x.bytes + (bytes[n] + 2 * F::group * group), to);
  }
  __device__ float2 sum(int n, int group) const { return x.sums[sums[n] + group]; }
};

/// y[f][n][h] += what a step adds to row 16 f + 8 h + r of W by row 4 n + t of X.
/// `rows`: for scales that are read at their use. `x`: a LaneX or what else loads so.
template <class F, int fragments, int tiles, bool wide, class X>
__device__ __forceinline__ void add_step(float (&y)[fragments][tiles][2],
                                         const Step<F, wide, 2 * fragments>& step,
                                         int step_index, const LaneRows<F>& rows,
                                         FloatType scale_type, int K, const X& x) {
  const int begin = step_index * F::step;
#pragma unroll
  for (int g = 0; g < F::groups; ++g) {
    float scale[2 * fragments], bias[2 * fragments];
#pragma unroll
    for (int h = 0; h < 2 * fragments; ++h) {
      scale[h] = step.scale(scale_type, K, step.scales[h], rows.scales(h), begin, g);
      bias[h] = step.scale(scale_type, K, step.biases[h], rows.biases(h), begin, g);
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      std::uint32_t b[F::quarter / 4];
      x.load(n, step_index * F::groups + g, b);
      const float2 s = x.sum(n, step_index * F::groups + g);
#pragma unroll
      for (int f = 0; f < fragments; ++f) {
        int c[4] = {};
#pragma unroll
        for (int m = 0; m < F::quarter / 8; ++m) {
          const auto& low = step.codes[g][2 * f];
          const auto& high = step.codes[g][2 * f + 1];
          const std::uint32_t w[4] = {
              code_bytes<F>(low, 2 * m), code_bytes<F>(high, 2 * m),
              code_bytes<F>(low, 2 * m + 1), code_bytes<F>(high, 2 * m + 1)};
          multiply_add(c, w, b[2 * m], b[2 * m + 1]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const auto sum = static_cast<float>(256 * c[2 * h] + c[2 * h + 1]);
          float& to = y[f][n][h];
          to = fmaf(scale[2 * f + h] * s.x, sum, to);
          to = fmaf(bias[2 * f + h], s.y, to);
        }
      }
    }
  }
}

}  // namespace optiq::kernels::cuda
