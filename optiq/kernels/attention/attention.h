// Softmax attention over keys and values in float or coded, for ragged batches.
#pragma once
#include <cstdint>

#include "optiq/kernels/float_type.h"
#include "optiq/kernels/kv_page/kv_layout.h"
#include "optiq/kernels/linear/activation.h"

namespace optiq::kernels {

/// Keys and values of one sequence: value i of row s of head h of the keys is
/// k[h * k_head_stride + s * k_row_stride + i], strides counted in values.
struct KvView {
  const void* k;
  const void* v;
  FloatType type;
  std::int64_t k_head_stride, k_row_stride;
  std::int64_t v_head_stride, v_row_stride;
};

/// One sequence: its `tokens` rows of q, and cached + tokens rows of keys and values,
/// in pages if there are any, else where `kv` says.
struct AttentionSegment {
  int tokens;
  int cached;
  KvView kv;
  const KvPages* pages = nullptr;
};

/// One call of attention.
///
/// Shapes    q, gate [T, n_heads, D] strided, the last axis contiguous; y [T, n_heads,
///           D] contiguous; T is the sum of the segments' tokens
/// Requires  n_heads a multiple of n_kv_heads; D at most kMaxHeadDim
struct AttentionArgs {
  const float* q;
  std::int64_t q_row_stride, q_head_stride;
  const float* gate;  // null: no gate
  std::int64_t gate_row_stride, gate_head_stride;
  float* y;
  const AttentionSegment* segments;
  int n_segments;
  int n_heads, n_kv_heads, head_dim;
  float scale;
  int window;  // keys that a token sees, itself the last; 0: all
  bool causal;
  Activation activation;  // over coded pages: kInt8 rounds queries and weights to int8
};

constexpr int kMaxHeadDim = 1024;

/// y = softmax(scale q k^T + mask) v, times sigmoid(gate) where there is one; the
/// sum over keys never leaves the first-level caches.
///
/// A row's result is the same to the last bit whichever rows share the call, however
/// they are cut and on however many threads (finite inputs; attention_tile.h).
///
/// Cost      decode reads each key and value once for all query heads of its group,
///           bound by those bytes; prefill by multiply-adds, 4 D for each visible key.
/// Source    Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022 (tiles);
///           Dao et al. 2023, "Flash-Decoding" (the split over the context).
void attention(const AttentionArgs& args);

}  // namespace optiq::kernels
