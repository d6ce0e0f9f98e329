// The gradient of products with weight matrices, by their input.
#pragma once
#include <cstdint>

#include "optiq/kernels/matrix.h"

namespace optiq::kernels {

/// One of the products that share an input: y = x W^T.
struct BackwardProduct {
  MatrixView w;               // [N, K], dense or quantized
  const float* dy = nullptr;  // [M, N]
};

/// dx = sum_i dy_i W_i.
///
/// Shapes    dx [M, K]
/// Threads   runs on the pool.
/// Cost      2 M N K operations; each W is made floats once, some hundred rows at a
///           time, so that it is never held whole. Bound by multiply-adds.
///
/// The sum over rows of W runs in ascending order within blocks, whose sums are added
/// in ascending order: the same bits for every SIMD target and number of threads.
void linear_backward(const BackwardProduct* products, int n_products, int M, int K,
                     float* dx);

/// A block of W's rows as floats, `rows` of them `stride` apart, a multiple of 32 that
/// covers K with zeros.
struct BackwardPanel {
  const float* values;
  std::int64_t stride;
  int rows;
};

/// Part of a call: rows [m_begin, m_end) of dx, columns [k_begin, k_end), k_begin a
/// multiple of 32; adds unless `first`. dy's rows lie dy_stride apart, its columns are
/// those of the panel.
struct BackwardTile {
  const float* dy;
  std::int64_t dy_stride;
  float* dx;
  std::int64_t dx_stride;
  int m_begin, m_end, k_begin, k_end;
  bool first;
};

namespace ref {
void linear_backward_tile(const BackwardPanel& panel, const BackwardTile& tile);
}  // namespace ref

}  // namespace optiq::kernels
