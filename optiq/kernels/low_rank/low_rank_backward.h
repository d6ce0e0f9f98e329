// The gradient of what an adapter adds to a product, one adapter for all rows.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// Shapes    x [M, K]; dy [M, N]; a [rank, K]; b [rank, N]; dx [M, K]; da, db as a, b
struct LowRankBackwardArgs {
  const float *x, *dy, *a, *b;
  float *dx, *da, *db;
  int M, K, N, rank;
  float scale;
};

/// Of z = scale (x a^T) b:  h = scale x a^T,  dh = scale dy b^T,
///   dx = dh a,  da = dh^T x,  db = h^T dy.
///
/// Threads   rows, then columns, are shared out; the result does not depend on how.
/// Cost      6 M rank (K + N) operations.
void low_rank_backward(const LowRankBackwardArgs& args);

/// Steps of a call, each over part of its rows or columns. h and dh [M, rank];
/// a_columns [K, stride] and b_columns [N, stride], stride rank rounded up to 32.
struct LowRankBackwardScratch {
  float *h, *dh, *a_columns, *b_columns;
  int stride;
};

namespace ref {
/// h, dh and dx of rows [begin, end).
void low_rank_backward_rows(const LowRankBackwardArgs& args,
                            const LowRankBackwardScratch& s, int begin, int end);
/// Columns [begin, end) of da; begin a multiple of 32, as below.
void low_rank_backward_a(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end);
/// Columns [begin, end) of db.
void low_rank_backward_b(const LowRankBackwardArgs& args,
                         const LowRankBackwardScratch& s, int begin, int end);
}  // namespace ref

}  // namespace optiq::kernels
