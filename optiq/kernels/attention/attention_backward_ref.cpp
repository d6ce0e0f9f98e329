#include <algorithm>
#include <cmath>
#include <vector>

#include "optiq/kernels/attention/attention_backward.h"

namespace optiq::kernels::ref {

void attention_backward_item(const AttentionBackwardArgs& args,
                             const AttentionBackwardItem& item, float* /*scratch*/) {
  const int D = args.head_dim, T = item.tokens, H = args.n_heads, Hk = args.n_kv_heads;
  const int group = H / Hk;
  const auto key = [&](int t) { return ((item.row + t) * Hk + item.kv_head) * D; };
  const auto n = static_cast<std::size_t>(T) * static_cast<std::size_t>(D);
  std::vector<double> dk(n), dv(n);
  for (int g = 0; g < group; ++g)
    for (int t = 0; t < T; ++t) {
      const std::int64_t query =
          ((item.row + t) * H + item.kv_head * group + g) * std::int64_t{D};
      const int end = args.causal ? t + 1 : T;
      const int begin = args.window > 0 ? std::max(0, t + 1 - args.window) : 0;
      std::vector<double> p, dp, dq(static_cast<std::size_t>(D)), o(dq), d_o(dq);
      double largest = -INFINITY, sum = 0, along = 0;
      for (int j = begin; j < end; ++j) {
        double score = 0;
        for (int i = 0; i < D; ++i)
          score += static_cast<double>(args.q[query + i]) * args.k[key(j) + i];
        p.push_back(score * args.scale);
        largest = std::max(largest, p.back());
      }
      for (double& weight : p) sum += weight = std::exp(weight - largest);
      for (double& weight : p) weight /= sum;
      for (int i = 0; i < D; ++i) {
        const auto at = static_cast<std::size_t>(i);
        for (int j = begin; j < end; ++j)
          o[at] += p[static_cast<std::size_t>(j - begin)] * args.v[key(j) + i];
        d_o[at] = args.dy[query + i];
        if (args.gate) {
          const double open =
              1 / (1 + std::exp(-static_cast<double>(args.gate[query + i])));
          args.dgate[query + i] =
              static_cast<float>(d_o[at] * o[at] * open * (1 - open));
          d_o[at] *= open;
        }
      }
      for (int j = begin; j < end; ++j) {
        dp.push_back(0);
        for (int i = 0; i < D; ++i)
          dp.back() += d_o[static_cast<std::size_t>(i)] * args.v[key(j) + i];
        along += dp.back() * p[static_cast<std::size_t>(j - begin)];
      }
      for (int j = begin; j < end; ++j) {
        const double weight = p[static_cast<std::size_t>(j - begin)];
        const double ds =
            weight * (dp[static_cast<std::size_t>(j - begin)] - along) * args.scale;
        for (int i = 0; i < D; ++i) {
          const auto at = static_cast<std::size_t>(j) * static_cast<std::size_t>(D) +
                          static_cast<std::size_t>(i);
          dk[at] += ds * args.q[query + i];
          dv[at] += weight * d_o[static_cast<std::size_t>(i)];
          dq[static_cast<std::size_t>(i)] += ds * args.k[key(j) + i];
        }
      }
      for (int i = 0; i < D; ++i)
        args.dq[query + i] = static_cast<float>(dq[static_cast<std::size_t>(i)]);
    }
  for (int t = 0; t < T; ++t)
    for (int i = 0; i < D; ++i) {
      const auto at = static_cast<std::size_t>(t) * static_cast<std::size_t>(D) +
                      static_cast<std::size_t>(i);
      args.dk[key(t) + i] = static_cast<float>(dk[at]);
      args.dv[key(t) + i] = static_cast<float>(dv[at]);
    }
}

}  // namespace optiq::kernels::ref
