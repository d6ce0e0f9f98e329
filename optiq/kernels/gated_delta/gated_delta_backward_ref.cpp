#include <cmath>
#include <vector>

#include "optiq/kernels/gated_delta/gated_delta_backward.h"

namespace optiq::kernels::ref {
namespace {

using Doubles = std::vector<double>;

std::size_t index(int i) { return static_cast<std::size_t>(i); }

Doubles unit_vector(const float* x, int dim, double scale) {
  double squares = 1e-6;
  for (int i = 0; i < dim; ++i) squares += static_cast<double>(x[i]) * x[i];
  Doubles unit(x, x + dim);
  for (double& value : unit) value *= scale / std::sqrt(squares);
  return unit;
}

}  // namespace

void gated_delta_backward_item(const GatedDeltaBackwardArgs& args,
                               const GatedDeltaBackwardItem& item, float* /*scratch*/) {
  const GatedDeltaArgs& f = args.forward;
  const int Dk = f.key_dim, Dv = f.value_dim, h = item.head, T = item.segment->tokens;
  const int key_head = h / (f.n_value_heads / f.n_key_heads);
  const std::int64_t keys = std::int64_t{f.n_key_heads} * Dk;
  const std::int64_t width = 2 * keys + std::int64_t{f.n_value_heads} * Dv;
  const auto at = [&](int i, int c) { return index(i * Dv + c); };
  std::vector<Doubles> states{Doubles(index(Dk * Dv))}, q, k, u, miss;
  Doubles decay, beta, slope;
  for (std::size_t i = 0; i < states[0].size(); ++i)
    states[0][i] =
        item.segment
            ->state_in[std::int64_t{h} * Dk * Dv + static_cast<std::int64_t>(i)];
  for (int t = 0; t < T; ++t) {
    const std::int64_t row = item.segment->row + t;
    const float* x = f.qkv + row * f.qkv_stride;
    q.push_back(unit_vector(x + key_head * Dk, Dk, 1 / std::sqrt(Dk)));
    k.push_back(unit_vector(x + keys + key_head * Dk, Dk, 1));
    const double z = static_cast<double>(f.a[row * f.a_stride + h]) + f.dt_bias[h];
    const double rate = std::exp(static_cast<double>(f.a_log[h]));
    decay.push_back(std::exp(-rate * (z > 20 ? z : std::log1p(std::exp(z)))));
    slope.push_back(-rate / (1 + std::exp(-z)));  // of g by a
    beta.push_back(1 / (1 + std::exp(-static_cast<double>(f.b[row * f.b_stride + h]))));
    Doubles S = states.back(), e(index(Dv)), w(index(Dv));
    for (double& value : S) value *= decay.back();
    for (int c = 0; c < Dv; ++c) {
      double recalled = 0;
      for (int i = 0; i < Dk; ++i) recalled += k.back()[index(i)] * S[at(i, c)];
      e[index(c)] = x[2 * keys + h * Dv + c] - recalled;
      w[index(c)] = beta.back() * e[index(c)];
      for (int i = 0; i < Dk; ++i) S[at(i, c)] += k.back()[index(i)] * w[index(c)];
    }
    states.push_back(std::move(S));
    miss.push_back(std::move(e));
    u.push_back(std::move(w));
  }
  Doubles D(index(Dk * Dv));
  if (item.d_state)
    for (std::size_t i = 0; i < D.size(); ++i)
      D[i] = item.d_state[std::int64_t{h} * Dk * Dv + static_cast<std::int64_t>(i)];
  for (int t = T - 1; t >= 0; --t) {
    const std::size_t n = index(t);
    const std::int64_t row = item.segment->row + t;
    const float* d_o = args.d_o + (row * f.n_value_heads + h) * Dv;
    const Doubles &S = states[n + 1], &before = states[n];
    double d_beta = 0, d_g = 0;
    Doubles dv(index(Dv));
    for (int i = 0; i < Dk; ++i) {
      double dq = 0;
      for (int c = 0; c < Dv; ++c) {
        D[at(i, c)] += q[n][index(i)] * d_o[c];
        dq += S[at(i, c)] * d_o[c];
      }
      item.d_qk[std::int64_t{t} * 2 * Dk + i] = static_cast<float>(dq);
    }
    for (int c = 0; c < Dv; ++c) {
      double du = 0;
      for (int i = 0; i < Dk; ++i) du += D[at(i, c)] * k[n][index(i)];
      d_beta += du * miss[n][index(c)];
      dv[index(c)] = beta[n] * du;
      args.d_qkv[row * width + 2 * keys + h * Dv + c] =
          static_cast<float>(dv[index(c)]);
    }
    for (int i = 0; i < Dk; ++i) {
      double dk = 0;
      for (int c = 0; c < Dv; ++c) {
        const double kept = decay[n] * before[at(i, c)];
        dk += D[at(i, c)] * u[n][index(c)] - kept * dv[index(c)];
        D[at(i, c)] -= k[n][index(i)] * dv[index(c)];
        d_g += D[at(i, c)] * kept;
        D[at(i, c)] *= decay[n];
      }
      item.d_qk[std::int64_t{t} * 2 * Dk + Dk + i] = static_cast<float>(dk);
    }
    args.d_a[row * f.n_value_heads + h] = static_cast<float>(d_g * slope[n]);
    args.d_b[row * f.n_value_heads + h] =
        static_cast<float>(d_beta * beta[n] * (1 - beta[n]));
  }
}

}  // namespace optiq::kernels::ref
