// The short depthwise convolution before a gated delta rule.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// The rows of one sequence in a call of causal_conv_silu.
///
/// Shapes    tail_in, tail_out [kernel - 1, channels], rows one after another; the two
///           may be the same memory
struct CausalConvSegment {
  std::int64_t row;  // its first row in x and y
  int tokens;        // may be 0
  const float* tail_in;
  float* tail_out;
};

/// One call of causal_conv_silu.
///
/// Shapes    x [T, channels] with rows `x_stride` values apart; weight
///           [channels, kernel]; y [T, channels]
struct CausalConvArgs {
  const float* x;
  std::int64_t x_stride;
  const float* weight;
  float* y;  // not x
  const CausalConvSegment* segments;
  int n_segments;
  int channels;
  int kernel;  // 1 or more
};

/// y[t, c] = silu(sum_j weight[c, j] x[t - (kernel - 1) + j, c]) for each segment by
/// itself; rows before a segment are those of its tail, which is then moved on.
///
/// Threads   segments and blocks of channels are shared out.
/// Cost      reads x and writes y once; bound by the exponential of silu.
void causal_conv_silu(const CausalConvArgs& args);

namespace ref {
/// The definition: channels [begin, end) of one segment, sums in double precision.
void causal_conv_channels(const CausalConvArgs& args, const CausalConvSegment& segment,
                          int begin, int end);
}  // namespace ref

}  // namespace optiq::kernels
