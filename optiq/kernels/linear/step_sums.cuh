// What a warp does with a step of affine weights: products with rows of X on tensor
// cores, scaled once a group.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/operand.cuh"
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

/// Up to a tile's rows of X. Of rows that are not there some other's values do: their
/// sums go nowhere.
template <class F, XForm form>
class LaneX {
 public:
  using X = Operand<F, form>;

  __device__ LaneX(const ReadyX& x, int x_rows) {
    const int r = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    values_ = x.values +
              min(r / X::columns_of_row, x_rows - 1) * x.groups * X::row_bytes +
              r % X::columns_of_row * X::column_bytes + X::at(0, t);
    for (int j = 0; j < X::rows_of_lane; ++j)
      sums_[j] = x.sums + min(X::rows_of_lane * t + j, x_rows - 1) * x.groups;
  }
  /// Piece p of the lane's quarter of a group, in its column of tile n.
  __device__ void load(int, int group, int p, std::uint32_t (&to)[X::words]) const {
    load_words(values_ + group * X::row_bytes + X::at(p, 0), to);
  }
  /// Step and sum of its rows of tile n.
  __device__ void sums(int, int group, float2 (&to)[X::rows_of_lane]) const {
    for (int j = 0; j < X::rows_of_lane; ++j) to[j] = sums_[j][group];
  }

 private:
  const char* values_;
  const float2* sums_[X::rows_of_lane];
};

/// y[n][..] += what group g of a step adds to the lane's sums of tile n (operand.cuh).
/// `rows`: for scales that are read at their use. `x`: a LaneX or what else loads so.
template <class X, class F, int tiles, bool wide, class Rows>
__device__ __forceinline__ void add_group(float (&y)[tiles][X::sums],
                                          const Step<F, wide>& step, int step_index,
                                          int g, const LaneRows<F>& rows,
                                          FloatType type, int K, const Rows& x) {
  constexpr int of_piece = X::words / 2;  // products
  const int begin = step_index * F::step, group = step_index * F::groups + g;
  float scale[2], bias[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    scale[h] = step.scales.scale(type, K, rows, h, begin, g);
    bias[h] = step.scales.bias(type, K, rows, h, begin, g);
    if constexpr (!X::bytes) bias[h] = fmaf(-kRaised<F>, scale[h], bias[h]);
  }
  typename X::Sum c[tiles][4];
#pragma unroll
  for (int p = 0; p < X::pieces; ++p) {
    std::uint32_t w[of_piece][4];
#pragma unroll
    for (int i = 0; i < of_piece; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        w[i][j] = X::weights(step.codes[g][j % 2], 2 * (p * of_piece + i) + j / 2);
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      std::uint32_t b[X::words];
      x.load(n, group, p, b);
#pragma unroll
      for (int i = 0; i < of_piece; ++i)
        if (p == 0 && i == 0)
          multiply(c[n], w[i], b[2 * i], b[2 * i + 1]);
        else
          multiply_add(c[n], w[i], b[2 * i], b[2 * i + 1]);
    }
  }
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    float2 s[X::rows_of_lane];
    x.sums(n, group, s);
#pragma unroll
    for (int i = 0; i < X::sums; ++i) {
      const int h = i / X::rows_of_lane;
      const float2& of = s[i % X::rows_of_lane];
      float sum;
      if constexpr (X::bytes)
        sum = static_cast<float>(256 * c[n][2 * h] + c[n][2 * h + 1]);
      else
        sum = c[n][i];
      y[n][i] = fmaf(bias[h], of.y, fmaf(scale[h] * of.x, sum, y[n][i]));
    }
  }
}

/// The same of all groups of a step.
template <class X, class F, int tiles, bool wide, class Rows>
__device__ __forceinline__ void add_step(float (&y)[tiles][X::sums],
                                         const Step<F, wide>& step, int step_index,
                                         const LaneRows<F>& rows, FloatType type, int K,
                                         const Rows& x) {
#pragma unroll
  for (int g = 0; g < F::groups; ++g)
    add_group<X>(y, step, step_index, g, rows, type, K, x);
}

}  // namespace optiq::kernels::cuda
