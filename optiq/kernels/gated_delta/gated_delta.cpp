#include "optiq/kernels/gated_delta/gated_delta.h"

#include <algorithm>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

void gated_delta(const GatedDeltaArgs& args) {
  const auto run = ref::gated_delta_item;
  const int heads = args.n_value_heads;
  parallel_for(
      static_cast<std::size_t>(args.n_segments) * static_cast<std::size_t>(heads),
      [&](std::size_t i) {
        const int index = static_cast<int>(i);
        run(args, {args.segments + index / heads, index % heads, 0, args.value_dim},
            nullptr);
      });
}

}  // namespace optiq::kernels
