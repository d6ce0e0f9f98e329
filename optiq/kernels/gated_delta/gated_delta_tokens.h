// What both forms of the gated delta rule make of a token before they meet the state.
#pragma once
#include "optiq/kernels/gated_delta/gated_delta.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

/// The chunk form of an item, in gated_delta_chunk_simd.cpp.
void gated_delta_chunks(const GatedDeltaArgs& args, const GatedDeltaItem& item,
                        float* scratch);

/// Where the values of one head lie.
struct GatedDeltaHead {
  const GatedDeltaArgs& args;
  const GatedDeltaItem& item;
  float rate;  // exp(a_log)

  const float* row(int t) const {
    return args.qkv + (item.segment->row + t) * args.qkv_stride;
  }
  int key_head() const { return item.head / (args.n_value_heads / args.n_key_heads); }
  const float* q(int t) const { return row(t) + key_head() * args.key_dim; }
  const float* k(int t) const {
    return row(t) + (args.n_key_heads + key_head()) * args.key_dim;
  }
  /// From the first column of the item on.
  const float* v(int t) const {
    return row(t) + 2 * args.n_key_heads * args.key_dim + item.head * args.value_dim +
           item.column_begin;
  }
  float* o(int t) const {
    return args.o +
           ((item.segment->row + t) * args.n_value_heads + item.head) * args.value_dim +
           item.column_begin;
  }
  /// The corner of the item's block in a state [Hv, Dk, Dv].
  std::int64_t state_offset() const {
    return (std::int64_t)item.head * args.key_dim * args.value_dim + item.column_begin;
  }
  int columns() const { return item.column_end - item.column_begin; }
};

OPTIQ_INLINE GatedDeltaHead head_of(const GatedDeltaArgs& args,
                                    const GatedDeltaItem& item) {
  return {args, item, exp(broadcast(args.a_log[item.head]))[0]};
}

/// exp(g_t) = exp(-exp(a_log) softplus(a_t + dt_bias)), in [0, 1].
OPTIQ_INLINE float decay_of(const GatedDeltaHead& h, int t) {
  const float x = h.args.a[(h.item.segment->row + t) * h.args.a_stride + h.item.head] +
                  h.args.dt_bias[h.item.head];
  // Beyond 20, log(1 + e^x) is x in float.
  const float softplus = x > 20 ? x : __builtin_log1pf(exp(broadcast(x))[0]);
  return exp(broadcast(-h.rate * softplus))[0];
}

OPTIQ_INLINE float beta_of(const GatedDeltaHead& h, int t) {
  return sigmoid(broadcast(
      h.args.b[(h.item.segment->row + t) * h.args.b_stride + h.item.head]))[0];
}

/// 1 / sqrt(sum x^2 + 1e-6).
OPTIQ_INLINE float inverse_length(const float* x, int dim) {
  Vec s0{}, s1{};
  int i = 0;
  for (; i + 2 * kLanes <= dim; i += 2 * kLanes) {
    const Vec x0 = load(x + i), x1 = load(x + i + kLanes);
    s0 = multiply_add(x0, x0, s0);
    s1 = multiply_add(x1, x1, s1);
  }
  float squares = reduce_add(s0 + s1);
  for (; i < dim; ++i) squares += x[i] * x[i];
  return 1 / __builtin_sqrtf(squares + 1e-6f);
}

OPTIQ_INLINE float query_scale(const GatedDeltaHead& h, int t) {
  return inverse_length(h.q(t), h.args.key_dim) / __builtin_sqrtf(h.args.key_dim);
}

/// Rows of `n` values from one stride to another; the same memory is left alone.
OPTIQ_INLINE void copy_rows(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride, int rows, int n) {
  if (from == to) return;
  for (int i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
    int c = 0;
    for (; c + kLanes <= n; c += kLanes) store(to + c, load(from + c));
    for (; c < n; ++c) to[c] = from[c];
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
