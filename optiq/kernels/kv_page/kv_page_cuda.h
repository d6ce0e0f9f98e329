// Keys, values and queries on their way into pages in a CUDA device's memory.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/kv_page/kv_layout.h"

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

/// kv_page.h's append_to_pages for all sequences of a call. Codes may differ by one
/// step from those of the CPU, where a rounding falls the other way.
///
/// Shapes    k, v [rows, n_kv_heads, head_dim]
void append_to_pages(const PageForm& form, const PagedBatch& batch, int rows,
                     const HeadRows& k, const HeadRows& v, const Launcher& launch);

/// Queries as they meet the stored keys: by q_scale, rotated, times `factor`; in half
/// precision, or in float.
///
/// Shapes    q [rows, n_heads, head_dim]; to [rows, n_heads, head_dim]
struct ReadyQueries {
  HeadRows q;
  int n_heads;
  float factor;
  bool half;
  void* to;
};
void make_queries_ready(const PageForm& form, int rows, const ReadyQueries& queries,
                        const Launcher& launch);

}  // namespace optiq::kernels::cuda
