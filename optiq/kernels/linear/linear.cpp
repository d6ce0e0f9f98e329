#include "optiq/kernels/linear/linear.h"

#include <cmath>
#include <vector>

#include "optiq/base/parallel.h"

namespace optiq::kernels {

bool has_int8(const MatrixView& w) {
  return w.quantized() && w.spec.mode == QuantMode::kAffine;
}

void linear(const float* x, int M, int K, const Product* products, int n_products,
            Activation activation) {
  for (int i = 0; i < n_products; ++i) {
    const bool int8 = activation == Activation::kInt8 && has_int8(products[i].w);
    parallel_for(static_cast<std::size_t>(M), [&](std::size_t m) {
      Product row = products[i];
      const auto offset = static_cast<std::int64_t>(m) * row.w.N;
      row.y += offset;
      if (row.residual) row.residual += offset;
      const float* xm = x + static_cast<std::int64_t>(m) * K;
      int8 ? ref::linear_int8(xm, 1, K, row) : ref::linear_exact(xm, 1, K, row);
    });
  }
}

void swiglu(const float* x, int M, int K, const Product& gate, const Product& up,
            float* y, Activation activation) {
  const auto size = static_cast<std::size_t>(M) * static_cast<std::size_t>(gate.w.N);
  std::vector<float> g(size);
  Product both[] = {gate, up};
  both[0].y = g.data();
  both[1].y = y;
  linear(x, M, K, both, 2, activation);
  for (std::size_t i = 0; i < size; ++i) y[i] *= g[i] / (1 + std::exp(-g[i]));
}

}  // namespace optiq::kernels
