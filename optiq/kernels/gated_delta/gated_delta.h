// The gated delta rule: linear attention with a state that forgets and corrects.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// The rows of one sequence in a call of gated_delta.
///
/// Shapes    state_in, state_out [n_value_heads, key_dim, value_dim]; the two may be
///           the same memory
struct GatedDeltaSegment {
  std::int64_t row;  // its first row
  int tokens;        // may be 0
  const float* state_in;
  float* state_out;
};

/// How a segment is computed. Both forms agree up to rounding.
///   kByLength  the faster one for the segment's number of tokens
///   kStep      token by token, as the definition reads
///   kChunk     sixteen tokens at a time, as small matrix products
enum class GatedDeltaForm { kByLength, kStep, kChunk };

/// One call of gated_delta.
///
/// Shapes    qkv [T, 2 Hk Dk + Hv Dv]: q, k, v side by side; a, b [T, Hv]; their rows
///           lie `*_stride` values apart; a_log, dt_bias [Hv]; o [T, Hv Dv]
struct GatedDeltaArgs {
  const float* qkv;
  const float* a;
  const float* b;
  std::int64_t qkv_stride;
  std::int64_t a_stride;
  std::int64_t b_stride;
  const float* a_log;
  const float* dt_bias;
  float* o;
  const GatedDeltaSegment* segments;
  int n_segments;
  int n_key_heads;    // Hk
  int n_value_heads;  // Hv, a multiple of Hk
  int key_dim;        // Dk
  int value_dim;      // Dv
  GatedDeltaForm form = GatedDeltaForm::kByLength;
};

/// The part of a call that one thread computes alone: the columns of a head's state do
/// not meet, so neither do blocks of them.
struct GatedDeltaItem {
  const GatedDeltaSegment* segment;
  int head;          // value head
  int column_begin;  // of value_dim
  int column_end;
};

/// Per value head, with q and k scaled to length one and q then by Dk^-1/2,
///   S <- exp(g_t) S + k_t (beta_t (v_t - k_t^T exp(g_t) S))^T,   o_t = S^T q_t,
///   g_t = -exp(a_log) softplus(a_t + dt_bias),   beta_t = sigmoid(b_t).
///
/// Threads   segments, heads and blocks of columns are shared out; the result does not
///           depend on how.
/// Cost      7 Dk Dv operations a token and head; one token is bound by the bytes of
///           the state, read and written once.
/// Source    Yang et al. 2024, "Gated Delta Networks", eq. 10
void gated_delta(const GatedDeltaArgs& args);

namespace ref {
/// The definition, token by token in double precision. `scratch` is not used.
void gated_delta_item(const GatedDeltaArgs& args, const GatedDeltaItem& item,
                      float* scratch);
}  // namespace ref

}  // namespace optiq::kernels
