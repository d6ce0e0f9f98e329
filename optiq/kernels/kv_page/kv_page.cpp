#include "optiq/kernels/kv_page/kv_page.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"
#include "optiq/kernels/kv_page/kv_page_head.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void append_head(const KvRows& rows, const KvPages& pages, int head))

void append_to_pages(const KvRows& rows, const KvPages& pages) {
  const auto append = OPTIQ_CHOOSE(append_head);
  const KvLayout& layout =
      pages.coded_layout ? *pages.coded_layout : *pages.float_layout;
  // One token's heads are less work than waking a thread for them.
  const std::int64_t values = static_cast<std::int64_t>(rows.tokens) * layout.head_dim;
  const std::size_t grain = static_cast<std::size_t>(4096 / (values + 1) + 1);
  parallel_ranges(static_cast<std::size_t>(layout.n_kv_heads), grain,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t head = begin; head < end; ++head)
                      append(rows, pages, static_cast<int>(head));
                  });
}

void read_from_pages(const KvPages& pages, const KvReadArgs& args) {
  ref::read_head(pages, args);
}

}  // namespace optiq::kernels
