// Token by token over a block of channels: the rows of one window and the weights,
// turned so that channels are adjacent, stay in the first-level cache. The exponential
// of silu costs more than the four products.
#include "optiq/kernels/causal_conv/causal_conv.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kMaxBlock = 128;  // channels
constexpr int kMaxKernel = 4;

// Weights [n, kernel] as [kernel][kMaxBlock]. The compiler knows the stride for a
// constant kernel and turns whole vectors.
template <int kKernel>
OPTIQ_INLINE void turn(const float* weight, int n, float* turned) {
  for (int c = 0; c < n; ++c)
    for (int j = 0; j < kKernel; ++j)
      turned[j * kMaxBlock + c] = weight[c * kKernel + j];
}

struct Block {
  float weight[kMaxKernel * kMaxBlock];
  const float* rows[kMaxKernel];  // of the window, at the first channel
};

template <int kKernel>
OPTIQ_INLINE void filter(const Block& block, int n, float* y) {
  int c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    Vec sum{};
    for (int j = 0; j < kKernel; ++j)
      sum = multiply_add(load(block.weight + j * kMaxBlock + c),
                         load(block.rows[j] + c), sum);
    store(y + c, silu(sum));
  }
  if (c < n) {  // the last channels as a vector of their own, for the same rounding
    float part[kLanes];
    Vec sum{};
    for (int j = 0; j < kKernel; ++j) {
      float x[kLanes] = {}, w[kLanes] = {};
      for (int i = c; i < n; ++i) {
        x[i - c] = block.rows[j][i];
        w[i - c] = block.weight[j * kMaxBlock + i];
      }
      sum = multiply_add(load(w), load(x), sum);
    }
    store(part, silu(sum));
    for (int i = c; i < n; ++i) y[i] = part[i - c];
  }
}

template <int kKernel>
void run(const CausalConvArgs& a, const CausalConvSegment& s, int begin, int n) {
  constexpr int kBefore = kKernel - 1;
  Block block;
  turn<kKernel>(a.weight + (std::int64_t)begin * kKernel, n, block.weight);
  const auto row = [&](int t) {
    return t < 0 ? s.tail_in + (std::int64_t)(t + kBefore) * a.channels + begin
                 : a.x + (s.row + t) * a.x_stride + begin;
  };
  for (int t = 0; t < s.tokens; ++t) {
    for (int j = 0; j < kKernel; ++j) block.rows[j] = row(t - kBefore + j);
    filter<kKernel>(block, n, a.y + (s.row + t) * a.channels + begin);
  }
  // Rising rows, so that a tail in place reads only rows not yet written.
  for (int i = 0; i < kBefore; ++i) {
    const float* from = row(s.tokens + i - kBefore);
    float* to = s.tail_out + (std::int64_t)i * a.channels + begin;
    if (from != to)
      for (int c = 0; c < n; ++c) to[c] = from[c];
  }
}

}  // namespace

void causal_conv_channels(const CausalConvArgs& a, const CausalConvSegment& s,
                          int begin, int end) {
  while (begin < end) {
    const int n = end - begin < kMaxBlock ? end - begin : kMaxBlock;
    switch (a.kernel) {
      case 2:
        run<2>(a, s, begin, n);
        break;
      case 3:
        run<3>(a, s, begin, n);
        break;
      case 4:
        run<4>(a, s, begin, n);
        break;
      default:
        ref::causal_conv_channels(a, s, begin, begin + n);
    }
    begin += n;
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
