// The pages of a call as a CUDA device's kernels find them.
#pragma once
#include <memory>
#include <span>

#include "mlx/array.h"
#include "optiq/kernels/kv_page/kv_layout.h"
#include "optiq/kernels/segment.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// The pages of one sequence, and what keeps them, their table and layouts alive.
struct PagedKv {
  KvPages pages;
  std::shared_ptr<const void> owner;
};

/// Of each sequence its rows (cuda::PagedRows, 16 bytes), then of each the addresses of
/// its pages, with room for `room` of them. One table serves all layers of a call.
struct PageTable {
  mx::array words;  // uint32
  int sequences, room;
};

/// A table with room for `room` pages a sequence, or for those that there are.
PageTable make_page_table(std::span<const Segment> segments,
                          std::span<const PagedKv> pages, int room = 0);

/// True if these would fit in the table.
bool fits(const PageTable& table, std::span<const Segment> segments);

/// The same table with what holds now.
///
/// Requires  fits(table, segments)
void rewrite_page_table(PageTable& table, std::span<const Segment> segments,
                        std::span<const PagedKv> pages);

}  // namespace optiq::kernels
