// Rotary position embedding of rows of heads, with an optional head norm before it.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// The heads of one projection: those of queries, or of keys.
///
/// Shapes    x [rows, n_heads, D] strided, the last axis contiguous; norm [D];
///           y [rows, n_heads, D] contiguous
struct RopeHeads {
  const float* x;
  std::int64_t row_stride, head_stride;
  const float* norm;  // weight of an RMSNorm of each head; null: none
  float* y;
  int n_heads;
};

/// One call of rope.
///
/// Requires  2 n_frequencies <= head_dim, n_frequencies <= kMaxFrequencies
struct RopeArgs {
  RopeHeads q, k;
  const std::int32_t* positions;   // [rows]
  const float* inverse_frequency;  // [n_frequencies]
  // Those of the rows whose long_rows is not 0; null: no row has others.
  const float* long_inverse_frequency;
  const std::int32_t* long_rows;  // [rows]
  std::int64_t rows;
  int head_dim;
  int n_frequencies;
  float eps;    // of the norms
  float scale;  // of cosine and sine
};

constexpr int kMaxFrequencies = 512;

/// y[i] = c x[i] - s x[i + F], y[i + F] = c x[i + F] + s x[i] for i < F, the rest as
/// it is; c and s are the cosine and sine of float(position) inverse_frequency[i],
/// that product rounded to float as transformers does, then exact to 2 ulp for any
/// position.
///
/// Cost      cosine and sine once a row for all heads; reads x once, bound by bytes.
/// Source    Su et al. 2021, "RoFormer", section 3.2.2
void rope(const RopeArgs& args);

namespace ref {
/// The definition: rows [begin, end) in double precision.
void rope_rows(const RopeArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace ref

}  // namespace optiq::kernels
