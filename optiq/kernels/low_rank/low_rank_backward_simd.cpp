// Five thin products; bound by the reads of x and dy, each twice.
#include "optiq/kernels/low_rank/low_rank_backward.h"
#include "optiq/kernels/simd_product.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

// C = A^T B for columns [begin, end) of B [M, width], A [M, rank]: B's last columns are
// copied, for a product reads whole vectors.
OPTIQ_INLINE void transposed_product(const float* a, int rank, const float* b,
                                     std::int64_t width, float* c, int M, int begin,
                                     int end) {
  const int whole = begin + (end - begin) / kProductColumns * kProductColumns;
  if (whole > begin)
    multiply(
        {a, 1, rank, b + begin, width, c + begin, width, rank, whole - begin, M, true});
  for (int n = whole; n < end; ++n)
    for (int r = 0; r < rank; ++r) {
      float sum = 0;
      for (int m = 0; m < M; ++m)
        sum = __builtin_fmaf(a[(std::int64_t)m * rank + r], b[m * width + n], sum);
      c[r * width + n] = sum;
    }
}

OPTIQ_INLINE void scale_rows(float* x, std::int64_t n, float scale) {
  for (std::int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

void low_rank_backward_rows(const LowRankBackwardArgs& args,
                            const LowRankBackwardScratch& s, int begin, int end) {
  const std::int64_t K = args.K, N = args.N, R = args.rank;
  const int n = end - begin;
  float *h = s.h + begin * R, *dh = s.dh + begin * R;
  multiply({args.x + begin * K, K, 1, s.a_columns, s.stride, h, R, n, args.rank, args.K,
            true});
  multiply({args.dy + begin * N, N, 1, s.b_columns, s.stride, dh, R, n, args.rank,
            args.N, true});
  scale_rows(h, n * R, args.scale);
  scale_rows(dh, n * R, args.scale);
  const int whole = args.K / kProductColumns * kProductColumns;
  if (whole > 0)
    multiply({dh, R, 1, args.a, K, args.dx + begin * K, K, n, whole, args.rank, true});
  for (std::int64_t m = 0; m < n; ++m)
    for (std::int64_t k = whole; k < K; ++k) {
      float sum = 0;
      for (std::int64_t r = 0; r < R; ++r)
        sum = __builtin_fmaf(dh[m * R + r], args.a[r * K + k], sum);
      args.dx[(begin + m) * K + k] = sum;
    }
}

void low_rank_backward_a(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end) {
  transposed_product(s.dh, args.rank, args.x, args.K, args.da, args.M, begin, end);
}

void low_rank_backward_b(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end) {
  transposed_product(s.h, args.rank, args.dy, args.N, args.db, args.M, begin, end);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
