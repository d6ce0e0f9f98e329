// A head's way out of a product into attention, by one warp, in shared memory.

#pragma once
#include "optiq/kernels/kv_page/store_row.cuh"
#include "optiq/kernels/rope/rope_cuda.cuh"

namespace optiq::kernels::cuda {

/// The heads of a call as kernels see them.
struct EnterArgs {
  PageForm form;
  PagedBatch batch;
  EnteringHeads heads;  // but for `rope`
  RopeArgs rope;
  bool turns;
  int n_kv_heads, head_dim;
};

inline EnterArgs entering(const PageForm& form, const PagedBatch& batch,
                          const EnteringHeads& heads) {
  const KvLayout& layout = form.float_pages > 0 ? form.float_layout : form.coded_layout;
  return {form,
          batch,
          heads,
          heads.rope ? *heads.rope : RopeArgs{},
          heads.rope != nullptr,
          layout.n_kv_heads,
          layout.head_dim};
}

enum class Entering { kQuery, kKey, kValue };

/// x [dim]: a query as it meets stored keys, but for `factor`, or a key or value as it
/// is stored. `dim` is head_dim, which a caller may know when it is compiled.
__device__ inline void bring_head(const EnterArgs& a, Entering kind, int row, int head,
                                  int dim, float* x, int lane) {
  const bool query = kind == Entering::kQuery, key = kind == Entering::kKey;
  const HeadRows& from = query ? a.heads.q : key ? a.heads.k : a.heads.v;
  const float* values = from.data + row * from.row_stride + head * from.head_stride;
  for (int i = lane; i < dim; i += 32) x[i] = values[i];
  __syncwarp();
  if (a.turns && kind != Entering::kValue)
    turn_head(a.rope, query ? a.rope.q.norm : a.rope.k.norm, row, dim, x, lane);
  const KvTransform& t = a.form.transform;
  if (key && t.k_mean) {
    const float* mean = of_head_cuda(t.k_mean, head, dim);
    for (int i = lane; i < dim; i += 32) x[i] -= mean[i];
    __syncwarp();
  }
  if (const float* scales = query ? t.q_scale : key ? t.k_scale : t.v_scale) {
    const int kv_head = query ? head / (a.heads.n_heads / a.n_kv_heads) : head;
    multiply_by(x, of_head_cuda(scales, kv_head, dim), dim, lane);
  }
  if (const float* signs = kind == Entering::kValue ? t.v_signs : t.k_signs) {
    multiply_by(x, signs, dim, lane);
    hadamard(x, dim, lane);
  }
}

/// A key or value of a row of the sequence to its place among the pages, of which it is
/// known whether all are of floats. `x`: [dim] floats, then a byte for each channel,
/// the last tile's made whole.
template <bool only_floats>
__device__ void append(const EnterArgs& a, Entering kind, const PagedRows& s, int row,
                       int head, int dim, float* x, int lane) {
  const int token = s.cached + row - s.row;
  const auto [layout, at] =
      head_in_page(a.form, a.batch.table + s.first_page, token / kPageTokens, head);
  const bool keys = kind == Entering::kKey;
  const KvSide& side = keys ? layout->k : layout->v;
  bring_head(a, kind, row, head, dim, x, lane);
  if constexpr (only_floats)
    store_floats(side, at, token % kPageTokens, dim, x, lane);
  else
    store_row(side, at, keys, token % kPageTokens, dim, x,
              reinterpret_cast<std::uint8_t*>(x + dim), lane);
}

}  // namespace optiq::kernels::cuda
