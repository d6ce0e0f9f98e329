#include "optiq/kernels/linear/linear.h"

#include <algorithm>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/linear/input_rows.h"
#include "optiq/kernels/linear/pieces.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {

bool has_int8(const MatrixView& w) {
  return w.quantized() && w.spec.mode == QuantMode::kAffine;
}

void linear(const float* x, int M, int K, const Product* products, int n_products,
            Activation activation) {
  const LinearKernels kernels = linear_kernels_in_use();
  if (M == 0 || n_products == 0) return;
  if (!kernels.panel_rows) {
    for (int i = 0; i < n_products; ++i)
      linear_by_reference(x, M, K, products[i], activation);
    return;
  }
  InputForms forms(kernels, x, M, K, activation);
  std::int64_t total_rows = 0;
  for (int i = 0; i < n_products; ++i) {
    forms.want(products[i].w);
    total_rows += products[i].w.N;
  }
  forms.fill();
  const int step = rows_of_a_piece(kernels, total_rows);
  std::vector<Piece> pieces;
  for (int i = 0; i < n_products; ++i) {
    const MatrixView& w = products[i].w;
    for (int n = 0; n < w.N; n += step)
      pieces.push_back({products[i], forms.form_for(w), n, std::min(w.N, n + step)});
  }
  parallel_for(pieces.size(), [&](std::size_t i) {
    const Piece& p = pieces[i];
    const float* residual = p.product.residual;
    p.multiply(kernels, p.product.y + p.begin, p.product.w.N,
               residual ? residual + p.begin : nullptr);
  });
}

void glu(GluGate f, const float* x, int M, int K, const Product& gate,
         const Product& up, float* y, Activation activation) {
  const LinearKernels kernels = linear_kernels_in_use();
  if (M == 0) return;
  const int N = gate.w.N;
  if (!kernels.panel_rows) {
    const auto size = static_cast<std::size_t>(M) * static_cast<std::size_t>(N);
    std::vector<float> g(size);
    Product first = gate, second = up;
    first.y = g.data();
    second.y = y;
    linear_by_reference(x, M, K, first, activation);
    linear_by_reference(x, M, K, second, activation);
    return glu_product(f, g.data(), y, y, static_cast<std::int64_t>(size));
  }
  InputForms forms(kernels, x, M, K, activation);
  forms.want(gate.w);
  forms.want(up.w);
  forms.fill();
  const int step = rows_of_a_piece(kernels, 2 * std::int64_t{N});
  const auto n_chunks = static_cast<std::size_t>((N + step - 1) / step);
  parallel_for(n_chunks, [&](std::size_t chunk) {
    const int begin = static_cast<int>(chunk) * step, end = std::min(N, begin + step);
    const std::int64_t n = end - begin;
    // Both halves of the chunk stay in the cache until they are joined.
    thread_local Scratch halves;
    auto* g = static_cast<float*>(
        halves.get(static_cast<std::size_t>(2 * M * n) * sizeof(float)));
    float* u = g + M * n;
    Piece{gate, forms.form_for(gate.w), begin, end}.multiply(kernels, g, n, nullptr);
    Piece{up, forms.form_for(up.w), begin, end}.multiply(kernels, u, n, nullptr);
    for (int m = 0; m < M; ++m)
      glu_product_here(f, g + m * n, u + m * n,
                       y + static_cast<std::int64_t>(m) * N + begin, n);
  });
}

}  // namespace optiq::kernels
