#include <cmath>
#include <vector>

#include "optiq/kernels/gated_delta/gated_delta.h"

namespace optiq::kernels::ref {
namespace {

std::vector<double> unit_vector(const float* x, int dim, double scale) {
  double squares = 0;
  for (int i = 0; i < dim; ++i) squares += static_cast<double>(x[i]) * x[i];
  std::vector<double> unit(x, x + dim);
  for (double& value : unit) value *= scale / std::sqrt(squares + 1e-6);
  return unit;
}

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace

void gated_delta_item(const GatedDeltaArgs& args, const GatedDeltaItem& item,
                      float* /*scratch*/) {
  const int Dk = args.key_dim, Dv = args.value_dim, h = item.head;
  const int n = item.column_end - item.column_begin;
  const int key_head = h / (args.n_value_heads / args.n_key_heads);
  const std::int64_t keys = static_cast<std::int64_t>(args.n_key_heads) * Dk;
  const std::int64_t block = static_cast<std::int64_t>(h) * Dk * Dv + item.column_begin;
  std::vector<double> S(static_cast<std::size_t>(Dk) * static_cast<std::size_t>(n));
  const auto state = [&](int i, int c) -> double& {
    return S[static_cast<std::size_t>(i) * static_cast<std::size_t>(n) +
             static_cast<std::size_t>(c)];
  };
  for (int i = 0; i < Dk; ++i)
    for (int c = 0; c < n; ++c)
      state(i, c) =
          item.segment->state_in[block + static_cast<std::int64_t>(i) * Dv + c];

  for (int t = 0; t < item.segment->tokens; ++t) {
    const std::int64_t row = item.segment->row + t;
    const float* qkv = args.qkv + row * args.qkv_stride;
    const auto q = unit_vector(qkv + key_head * Dk, Dk, 1 / std::sqrt(Dk));
    const auto k = unit_vector(qkv + keys + key_head * Dk, Dk, 1);
    const float* v = qkv + 2 * keys + h * Dv + item.column_begin;
    const double a = static_cast<double>(args.a[row * args.a_stride + h]);
    const double decay = std::exp(-std::exp(static_cast<double>(args.a_log[h])) *
                                  softplus(a + args.dt_bias[h]));
    const double beta =
        1 / (1 + std::exp(-static_cast<double>(args.b[row * args.b_stride + h])));
    for (int c = 0; c < n; ++c) {
      double recalled = 0, read = 0;
      for (int i = 0; i < Dk; ++i) {
        state(i, c) *= decay;
        recalled += k[static_cast<std::size_t>(i)] * state(i, c);
      }
      const double u = beta * (v[c] - recalled);
      for (int i = 0; i < Dk; ++i) {
        state(i, c) += k[static_cast<std::size_t>(i)] * u;
        read += q[static_cast<std::size_t>(i)] * state(i, c);
      }
      args.o[(row * args.n_value_heads + h) * Dv + item.column_begin + c] =
          static_cast<float>(read);
    }
  }

  for (int i = 0; i < Dk; ++i)
    for (int c = 0; c < n; ++c)
      item.segment->state_out[block + static_cast<std::int64_t>(i) * Dv + c] =
          static_cast<float>(state(i, c));
}

}  // namespace optiq::kernels::ref
