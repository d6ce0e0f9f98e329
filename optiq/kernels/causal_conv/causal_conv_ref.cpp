#include <cmath>

#include "optiq/kernels/causal_conv/causal_conv.h"

namespace optiq::kernels::ref {

void causal_conv_channels(const CausalConvArgs& a, const CausalConvSegment& s,
                          int begin, int end) {
  const int before = a.kernel - 1;
  // Row t of the sequence, counted from the start of the segment.
  const auto input = [&](int t, int c) {
    return t < 0 ? s.tail_in[static_cast<std::int64_t>(t + before) * a.channels + c]
                 : a.x[(s.row + t) * a.x_stride + c];
  };
  for (int t = 0; t < s.tokens; ++t)
    for (int c = begin; c < end; ++c) {
      double sum = 0;
      for (int j = 0; j < a.kernel; ++j)
        sum +=
            static_cast<double>(a.weight[static_cast<std::int64_t>(c) * a.kernel + j]) *
            input(t - before + j, c);
      a.y[(s.row + t) * a.channels + c] =
          static_cast<float>(sum / (1 + std::exp(-sum)));
    }
  // Rising rows, so that a tail in place reads only rows not yet written.
  for (int i = 0; i < before; ++i)
    for (int c = begin; c < end; ++c)
      s.tail_out[static_cast<std::int64_t>(i) * a.channels + c] =
          input(s.tokens + i - before, c);
}

}  // namespace optiq::kernels::ref
