#include "optiq/kernels/rms_norm/rms_norm_backward.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void rms_norm_backward_rows(const RmsNormBackwardArgs& args,
                                               std::int64_t begin, std::int64_t end))

void rms_norm_backward(const RmsNormBackwardArgs& args) {
  const auto grain = static_cast<std::size_t>(16384 / (args.forward.dim + 1) + 1);
  const auto rows = OPTIQ_CHOOSE(rms_norm_backward_rows);
  parallel_ranges(static_cast<std::size_t>(args.forward.rows), grain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(args, static_cast<std::int64_t>(begin),
                         static_cast<std::int64_t>(end));
                  });
}

}  // namespace optiq::kernels
