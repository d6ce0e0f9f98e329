#include "optiq/kernels/causal_conv/causal_conv.h"

#include <algorithm>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void causal_conv_channels(const CausalConvArgs& args,
                                             const CausalConvSegment& segment,
                                             int begin, int end))

void causal_conv_silu(const CausalConvArgs& args) {
  // Wide enough that a row of a block is several cache lines, narrow enough that
  // small models give work to several threads.
  constexpr int kBlock = 128;
  const auto channels = OPTIQ_CHOOSE(causal_conv_channels);
  const int blocks = (args.channels + kBlock - 1) / kBlock;
  parallel_for(
      static_cast<std::size_t>(blocks) * static_cast<std::size_t>(args.n_segments),
      [&](std::size_t item) {
        const int block = static_cast<int>(item) % blocks;
        const int begin = block * kBlock;
        channels(args, args.segments[static_cast<int>(item) / blocks], begin,
                 std::min(begin + kBlock, args.channels));
      });
}

}  // namespace optiq::kernels
