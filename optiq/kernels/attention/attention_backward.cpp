#include "optiq/kernels/attention/attention_backward.h"

#include <algorithm>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void attention_backward_item(const AttentionBackwardArgs& args,
                                                const AttentionBackwardItem& item,
                                                float* scratch))

std::size_t attention_backward_scratch(const AttentionBackwardArgs& args, int tokens) {
  const auto rounded = [](int n) {
    return (static_cast<std::size_t>(n) + 31) / 32 * 32 + 32;
  };
  const std::size_t T = rounded(tokens), D = rounded(args.head_dim);
  const auto heads = static_cast<std::size_t>(args.head_dim);
  // k and v as rows and as columns, their gradients; weights and their gradients,
  // queries, outputs and gradients of a block; a cache line to align.
  return 2 * T * D + 2 * heads * T + 2 * T * D +
         std::size_t{kAttentionBackwardRows} * (2 * T + 5 * D) + 64;
}

void attention_backward(const AttentionBackwardArgs& args) {
  const auto run = OPTIQ_CHOOSE(attention_backward_item);
  std::vector<AttentionBackwardItem> items;
  std::int64_t row = 0;
  for (int s = 0; s < args.n_segments; ++s) {
    for (int h = 0; h < args.n_kv_heads; ++h)
      items.push_back({row, args.lengths[s], h});
    row += args.lengths[s];
  }
  // The longest first: nobody waits for one that was begun last.
  std::ranges::stable_sort(items, std::greater{}, &AttentionBackwardItem::tokens);
  parallel_for(items.size(), [&](std::size_t i) {
    thread_local std::vector<float> scratch;
    scratch.resize(
        std::max(scratch.size(), attention_backward_scratch(args, items[i].tokens)));
    run(args, items[i], scratch.data());
  });
}

}  // namespace optiq::kernels
