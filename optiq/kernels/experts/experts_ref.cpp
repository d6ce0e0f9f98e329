#include <vector>

#include "optiq/kernels/experts/experts.h"

namespace optiq::kernels::ref {
namespace {

// y = x W^T for one row.
void multiply(const float* x, const MatrixView& w, Activation activation, float* y) {
  Product product;
  product.w = w;
  product.y = y;
  if (activation == Activation::kInt8 && has_int8(w))
    linear_int8(x, 1, w.K, product);
  else
    linear_exact(x, 1, w.K, product);
}

}  // namespace

void experts(const ExpertsArgs& args) {
  const int K = args.gate.K, N = args.down.K;
  std::vector<float> g(static_cast<std::size_t>(N)), u(g), h(g);
  std::vector<float> z(static_cast<std::size_t>(K));
  for (int t = 0; t < args.T; ++t) {
    const float* x = args.x + std::int64_t{t} * K;
    float* y = args.y + std::int64_t{t} * K;
    for (int k = 0; k < K; ++k)
      y[k] = args.residual ? args.residual[std::int64_t{t} * K + k] : 0;
    for (int i = 0; i < args.n_active; ++i) {
      const std::int64_t at = std::int64_t{t} * args.n_active + i;
      const std::int64_t e = args.ids[at];
      multiply(x, args.gate.rows(e * N, N), args.activation, g.data());
      multiply(x, args.up.rows(e * N, N), args.activation, u.data());
      glu_rows(args.f, g.data(), u.data(), h.data(), N);
      multiply(h.data(), args.down.rows(e * K, K), args.activation, z.data());
      for (int k = 0; k < K; ++k)
        y[k] += args.weights[at] * z[static_cast<std::size_t>(k)];
    }
  }
}

}  // namespace optiq::kernels::ref
