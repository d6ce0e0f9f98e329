// The gradient of the gated delta rule.
#pragma once
#include <cstddef>

#include "optiq/kernels/gated_delta/gated_delta.h"

namespace optiq::kernels {

/// One call of gated_delta_backward.
///
/// Shapes    d_o [T, Hv Dv]; d_states: one [Hv, Dk, Dv] a segment; d_qkv [T, 2 Hk Dk +
/// Hv Dv]; d_a, d_b [T, Hv]; rows one
///           after another
struct GatedDeltaBackwardArgs {
  GatedDeltaArgs forward;  // its inputs; o and state_out are not used
  const float* d_o;
  const float* const* d_states;  // by the states behind the segments; null: zero
  float* d_qkv;
  float* d_a;
  float* d_b;
};

/// The gradients by q, k, v, a and b of what has the gradients d_o by o and d_states by
/// the states behind the segments; those before them count as constants.
///
/// Threads   segments and heads are shared out; the result does not depend on how.
/// Cost      about four times gated_delta by single steps. States are kept every
///           sixteen tokens and computed again in between.
///
/// With S' = exp(g) S_{t-1}, r = k^T S', u = beta (v - r), S_t = S' + k u^T, o = S_t^T
/// q and D the gradient by S_t, from the future:
///   D += q do^T,  dq = S_t do,  du = D^T k,  dk = D u,
///   dbeta = du (v - r),  dv = beta du,  D' = D - k dv^T,  dk -= S' dv,
///   dg = <D', S'>,  and for t - 1:  D = exp(g) D'.
void gated_delta_backward(const GatedDeltaBackwardArgs& args);

/// The part of a call that one thread computes alone.
struct GatedDeltaBackwardItem {
  const GatedDeltaSegment* segment;
  const float* d_state;  // null: zero
  int head;              // value head
  float* d_qk;           // [tokens, 2 Dk]: by q and k as they meet the state, scaled
};

/// States are kept at every one of so many tokens.
inline constexpr int kGatedDeltaKept = 16;

/// Columns of a state that are walked together.
inline constexpr int kGatedDeltaColumns = 32;

/// Values that an item needs beside its arguments.
std::size_t gated_delta_backward_scratch(const GatedDeltaArgs& args, int tokens);

namespace ref {
/// The definition in double precision. `scratch` is not used.
void gated_delta_backward_item(const GatedDeltaBackwardArgs& args,
                               const GatedDeltaBackwardItem& item, float* scratch);
}  // namespace ref

}  // namespace optiq::kernels
