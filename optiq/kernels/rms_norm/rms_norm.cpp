#include "optiq/kernels/rms_norm/rms_norm.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void rms_norm_rows(const RmsNormArgs& args, std::int64_t begin,
                                      std::int64_t end))

void rms_norm(const RmsNormArgs& args) {
  // A chunk of some 16k values outweighs the claim of it.
  const auto grain = static_cast<std::size_t>(16384 / (args.dim + 1) + 1);
  const auto rows = OPTIQ_CHOOSE(rms_norm_rows);
  parallel_ranges(static_cast<std::size_t>(args.rows), grain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(args, static_cast<std::int64_t>(begin),
                         static_cast<std::int64_t>(end));
                  });
}

}  // namespace optiq::kernels
