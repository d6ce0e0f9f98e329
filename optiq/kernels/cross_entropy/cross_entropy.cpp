#include "optiq/kernels/cross_entropy/cross_entropy.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void cross_entropy_rows(const CrossEntropyArgs& args,
                                           std::int64_t begin, std::int64_t end))

void cross_entropy(const CrossEntropyArgs& args) {
  const auto rows = OPTIQ_CHOOSE(cross_entropy_rows);
  const auto grain = static_cast<std::size_t>(16384 / (args.vocab + 1) + 1);
  parallel_ranges(static_cast<std::size_t>(args.rows), grain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(args, static_cast<std::int64_t>(begin),
                         static_cast<std::int64_t>(end));
                  });
}

}  // namespace optiq::kernels
