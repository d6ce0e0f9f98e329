#include "optiq/kernels/low_rank/low_rank_backward.h"

namespace optiq::kernels::ref {
namespace {

// sum_i a[i a_step] b[i b_step]
double dot(const float* a, std::int64_t a_step, const float* b, std::int64_t b_step,
           int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(a[i * a_step]) * b[i * b_step];
  return sum;
}

}  // namespace

void low_rank_backward_rows(const LowRankBackwardArgs& args,
                            const LowRankBackwardScratch& s, int begin, int end) {
  const std::int64_t K = args.K, N = args.N, R = args.rank;
  for (std::int64_t m = begin; m < end; ++m) {
    for (std::int64_t r = 0; r < R; ++r) {
      s.h[m * R + r] = static_cast<float>(
          args.scale * dot(args.x + m * K, 1, args.a + r * K, 1, args.K));
      s.dh[m * R + r] = static_cast<float>(
          args.scale * dot(args.dy + m * N, 1, args.b + r * N, 1, args.N));
    }
    for (std::int64_t k = 0; k < K; ++k)
      args.dx[m * K + k] =
          static_cast<float>(dot(s.dh + m * R, 1, args.a + k, K, args.rank));
  }
}

void low_rank_backward_a(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end) {
  for (std::int64_t r = 0; r < args.rank; ++r)
    for (std::int64_t k = begin; k < end; ++k)
      args.da[r * args.K + k] =
          static_cast<float>(dot(s.dh + r, args.rank, args.x + k, args.K, args.M));
}

void low_rank_backward_b(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end) {
  for (std::int64_t r = 0; r < args.rank; ++r)
    for (std::int64_t n = begin; n < end; ++n)
      args.db[r * args.N + n] =
          static_cast<float>(dot(s.h + r, args.rank, args.dy + n, args.N, args.M));
}

}  // namespace optiq::kernels::ref
