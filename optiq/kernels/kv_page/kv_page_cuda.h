// Keys, values and queries on their way into pages in a CUDA device's memory.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/kv_page/kv_layout.h"
#include "optiq/kernels/rope/rope.h"

namespace optiq::kernels::cuda {

/// What the pages of a layer look like, the same for all sequences of a call: KvPages
/// without the table. The transform's pointers are the device's.
struct PageForm {
  KvLayout float_layout, coded_layout;
  std::int64_t float_offset, coded_offset;
  int float_pages;
  KvTransform transform;
};

/// One sequence of a call: `tokens` rows from `row` on, behind `cached` tokens. Its
/// pages are table[first_page] and those behind it.
struct PagedRows {
  std::int32_t row, tokens, cached, first_page;
};

/// The sequences of a call, in the device's memory.
struct PagedBatch {
  const PagedRows* sequences;
  std::byte* const* table;
  int n_sequences;
};

/// Rows of heads, in strides of values; the last axis is contiguous.
struct HeadRows {
  const float* data;
  std::int64_t row_stride, head_stride;
};

/// True for pages that these kernels write and read: every format but kTurboQjl.
bool has_pages(const PageForm& form);

/// The heads of a call on their way into attention; null data: none of them.
///
/// Shapes    q [rows, n_heads, head_dim]; k, v [rows, n_kv_heads, head_dim];
///           queries [rows, n_heads, head_dim]
struct EnteringHeads {
  HeadRows q{}, k{}, v{};
  // Turns q and k first (rope.h), whose x and y are not used; null: they are not
  // turned.
  const RopeArgs* rope = nullptr;
  // Queries as they meet the stored keys: by q_scale, rotated, times `factor`; in half
  // precision, or in float.
  int n_heads = 0;
  float factor = 1;
  bool half = false;
  void* queries = nullptr;
};

/// Makes queries ready, and keys and values kv_page.h's append_to_pages for all
/// sequences of a call. Codes may differ by one step from those of the CPU, where a
/// rounding falls the other way.
void enter_pages(const PageForm& form, const PagedBatch& batch, int rows,
                 const EnteringHeads& heads, const Launcher& launch);

}  // namespace optiq::kernels::cuda
