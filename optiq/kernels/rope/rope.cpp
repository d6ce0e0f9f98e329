#include "optiq/kernels/rope/rope.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void rope_rows(const RopeArgs& args, std::int64_t begin,
                                  std::int64_t end))

void rope(const RopeArgs& args) {
  // A chunk of some 16k values outweighs the claim of it.
  const int width = (args.q.n_heads + args.k.n_heads) * args.head_dim;
  const auto grain = static_cast<std::size_t>(16384 / (width + 1) + 1);
  const auto rows = OPTIQ_CHOOSE(rope_rows);
  parallel_ranges(static_cast<std::size_t>(args.rows), grain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(args, static_cast<std::int64_t>(begin),
                         static_cast<std::int64_t>(end));
                  });
}

}  // namespace optiq::kernels
