// Rows of keys and values into pages, and back.
#pragma once
#include <cstdint>

#include "optiq/kernels/kv_page/kv_layout.h"

namespace optiq::kernels {

/// Rows of one sequence on their way into its pages: row t becomes token first + t.
///
/// Shapes    k, v [tokens, n_kv_heads, head_dim], strides in values, the last axis
///           contiguous
/// Requires  pages for all of them
struct KvRows {
  const float* k;
  std::int64_t k_row_stride, k_head_stride;
  const float* v;
  std::int64_t v_row_stride, v_head_stride;
  int first, tokens;
};

/// Transforms and codes the rows. Each token is coded by itself, so its bytes do not
/// depend on what is written with it, before or behind it; all its bits are set.
/// A value that is not finite makes its group NaN.
///
/// Cost      some tens of instructions for each eight values
/// Source    affine: a search over clipped ranges, never worse than min-max in squared
///           error; turbo: nearest entries, and the scale that keeps <k, x> unbiased,
///           |k|^2 / <k, c>, for keys, least squares, <v, c> / <c, c>, for values
void append_to_pages(const KvRows& rows, const KvPages& pages);

/// Decoded rows of one head.
///
/// Shapes    k, v [tokens, head_dim], contiguous
struct KvReadArgs {
  int head;
  int first, tokens;
  float* k;
  float* v;
  bool undo_transform;  // false: as stored, rotated and centred
};

void read_from_pages(const KvPages& pages, const KvReadArgs& args);

}  // namespace optiq::kernels
