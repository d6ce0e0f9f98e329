// The gradient of attention without a cache.
#pragma once
#include <cstddef>
#include <cstdint>

namespace optiq::kernels {

/// One call of attention_backward.
///
/// Shapes    q, gate, dy, dq, dgate [T, n_heads, D]; k, v, dk, dv [T, n_kv_heads, D];
///           all with one row after another
struct AttentionBackwardArgs {
  const float *q, *k, *v;
  const float* gate;  // null: no gate, and then no dgate
  const float* dy;
  float *dq, *dk, *dv, *dgate;
  const int* lengths;  // of the segments
  int n_segments;
  int n_heads, n_kv_heads, head_dim;
  float scale;
  int window;  // 0: all
  bool causal;
};

/// The gradients of y = softmax(scale q k^T + mask) v, times sigmoid(gate) where there
/// is one, by q, k, v and the gate.
///
/// Threads   segments and key heads are shared out; the result does not depend on how.
/// Cost      14 D operations for each visible pair: weights are computed once more, for
///           32 queries at a time, so that memory grows with the length alone.
/// Source    Dao et al. 2022, "FlashAttention", section B.2, with whole rows in a tile.
void attention_backward(const AttentionBackwardArgs& args);

/// The part of a call that one thread computes alone: one segment's queries of a key
/// head's group.
struct AttentionBackwardItem {
  std::int64_t row;  // the segment's first
  int tokens;
  int kv_head;
};

/// Queries of a block.
inline constexpr int kAttentionBackwardRows = 32;

/// Values that an item needs beside its arguments.
std::size_t attention_backward_scratch(const AttentionBackwardArgs& args, int tokens);

namespace ref {
/// The definition in double precision. `scratch` is not used.
void attention_backward_item(const AttentionBackwardArgs& args,
                             const AttentionBackwardItem& item, float* scratch);
}  // namespace ref

}  // namespace optiq::kernels
