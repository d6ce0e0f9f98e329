// A block of columns of a head's state, and of its gradient, in the first-level cache.
// Forward over all tokens, keeping the block every sixteen of them; then run by run
// backward, each run computed once more with all its states kept. Bound by the
// multiply-adds on blocks: five passes over a state's block and its gradient a token.
#include "optiq/kernels/gated_delta/gated_delta_backward.h"
#include "optiq/kernels/gated_delta/gated_delta_tokens.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kColumns = kGatedDeltaColumns;
constexpr int kVectors = kColumns / kLanes;

// Columns of a row, in registers; those beyond the last one of the head are zero.
struct Row {
  Vec v[kVectors];
};

OPTIQ_INLINE Row load_row(const float* p) {
  Row row;
  for (int j = 0; j < kVectors; ++j) row.v[j] = load(p + j * kLanes);
  return row;
}

OPTIQ_INLINE void store_row(float* p, const Row& row) {
  for (int j = 0; j < kVectors; ++j) store(p + j * kLanes, row.v[j]);
}

OPTIQ_INLINE Row zero_row() {
  Row row;
  for (int j = 0; j < kVectors; ++j) row.v[j] = Vec{};
  return row;
}

OPTIQ_INLINE Row load_some(const float* p, int n) {
  float padded[kColumns] = {};
  for (int c = 0; c < n; ++c) padded[c] = p[c];
  return load_row(padded);
}

// sum += scale row
OPTIQ_INLINE void add(Row& sum, float scale, const Row& row) {
  const Vec s = broadcast(scale);
  for (int j = 0; j < kVectors; ++j) sum.v[j] = multiply_add(s, row.v[j], sum.v[j]);
}

OPTIQ_INLINE Vec products(const Row& a, const Row& b, Vec sum) {
  for (int j = 0; j < kVectors; ++j) sum = multiply_add(a.v[j], b.v[j], sum);
  return sum;
}

OPTIQ_INLINE float dot(const Row& a, const Row& b) {
  return reduce_add(products(a, b, Vec{}));
}

// One token: `after` is what it makes of `before` (the two may be the same memory).
// Gives v - r and u.
OPTIQ_INLINE void step(const float* before, float* after, const float* k, int Dk,
                       float decay, float beta, const Row& v, Row& miss, Row& u) {
  Row recalled = zero_row();
  for (int i = 0; i < Dk; ++i) add(recalled, k[i], load_row(before + i * kColumns));
  for (int j = 0; j < kVectors; ++j) {
    miss.v[j] = v.v[j] - decay * recalled.v[j];
    u.v[j] = beta * miss.v[j];
  }
  for (int i = 0; i < Dk; ++i) {
    Row row = load_row(before + i * kColumns);
    for (int j = 0; j < kVectors; ++j) row.v[j] *= decay;
    add(row, k[i], u);
    store_row(after + i * kColumns, row);
  }
}

}  // namespace

void gated_delta_backward_item(const GatedDeltaBackwardArgs& args,
                               const GatedDeltaBackwardItem& item, float* scratch) {
  const GatedDeltaArgs& f = args.forward;
  const int Dk = f.key_dim, Dv = f.value_dim, T = item.segment->tokens;
  const GatedDeltaItem whole{item.segment, item.head, 0, Dv};
  const GatedDeltaHead head = head_of(f, whole);
  const std::int64_t width =
      2 * (std::int64_t)f.n_key_heads * Dk + (std::int64_t)f.n_value_heads * Dv;
  const int block = Dk * kColumns;
  scratch += (64 - (std::uintptr_t)scratch % 64) / 4;
  float* kept = scratch;
  float* run_states = kept + (T / kGatedDeltaKept + 1) * block;
  float* D = run_states + (kGatedDeltaKept + 1) * block;
  float* run_miss = D + block;
  float* run_u = run_miss + kGatedDeltaKept * kColumns;
  float* keys = run_u + kGatedDeltaKept * kColumns;  // [T, Dk], queries behind them
  float* queries = keys + (std::int64_t)T * Dk;
  float* decays = queries + (std::int64_t)T * Dk;
  float* betas = decays + T;
  float* d_decay = betas + T;  // by g
  float* d_beta = d_decay + T;
  for (int t = 0; t < T; ++t) {
    const float q_scale = query_scale(head, t);
    const float k_scale = inverse_length(head.k(t), Dk);
    for (int i = 0; i < Dk; ++i) {
      queries[t * Dk + i] = q_scale * head.q(t)[i];
      keys[t * Dk + i] = k_scale * head.k(t)[i];
    }
    decays[t] = decay_of(head, t);
    betas[t] = beta_of(head, t);
    d_decay[t] = d_beta[t] = 0;
  }

  for (int c0 = 0; c0 < Dv; c0 += kColumns) {
    const int n = Dv - c0 < kColumns ? Dv - c0 : kColumns;
    const auto values = [&](int t) __attribute__((always_inline)) {
      return n == kColumns ? load_row(head.v(t) + c0) : load_some(head.v(t) + c0, n);
    };
    const float* state = item.segment->state_in + head.state_offset() + c0;
    for (int i = 0; i < Dk; ++i)
      store_row(kept + i * kColumns, load_some(state + (std::int64_t)i * Dv, n));
    Row miss, u;
    for (int t = 0; t + kGatedDeltaKept < T; t += kGatedDeltaKept) {
      float* at = kept + t / kGatedDeltaKept * block;
      float* next = at + block;
      for (int s = t; s < t + kGatedDeltaKept; ++s)
        step(s == t ? at : next, next, keys + s * Dk, Dk, decays[s], betas[s],
             values(s), miss, u);
    }
    const float* d_state =
        item.d_state ? item.d_state + head.state_offset() + c0 : nullptr;
    for (int i = 0; i < Dk; ++i)
      store_row(D + i * kColumns,
                d_state ? load_some(d_state + (std::int64_t)i * Dv, n) : zero_row());

    for (int run = (T - 1) / kGatedDeltaKept; run >= 0 && T > 0; --run) {
      const int first = run * kGatedDeltaKept;
      const int last = first + kGatedDeltaKept < T ? first + kGatedDeltaKept : T;
      const float* start = kept + run * block;
      for (int t = first; t < last; ++t) {
        const float* before = t == first ? start : run_states + (t - first) * block;
        step(before, run_states + (t - first + 1) * block, keys + t * Dk, Dk, decays[t],
             betas[t], values(t), miss, u);
        store_row(run_miss + (t - first) * kColumns, miss);
        store_row(run_u + (t - first) * kColumns, u);
      }
      for (int t = last - 1; t >= first; --t) {
        const std::int64_t row = item.segment->row + t;
        const float* before = t == first ? start : run_states + (t - first) * block;
        const float* after = run_states + (t - first + 1) * block;
        const float *q = queries + t * Dk, *k = keys + t * Dk;
        const float* o_gradient =
            args.d_o + (row * f.n_value_heads + item.head) * Dv + c0;
        const Row d_o = n == kColumns ? load_row(o_gradient) : load_some(o_gradient, n);
        float* d_q = item.d_qk + (std::int64_t)t * 2 * Dk;
        float* d_k = d_q + Dk;
        miss = load_row(run_miss + (t - first) * kColumns);
        u = load_row(run_u + (t - first) * kColumns);
        Row d_u = zero_row();
        for (int i = 0; i < Dk; ++i) {
          Row d = load_row(D + i * kColumns);
          add(d, q[i], d_o);
          store_row(D + i * kColumns, d);
          add(d_u, k[i], d);
          d_q[i] += dot(load_row(after + i * kColumns), d_o);
        }
        d_beta[t] += dot(d_u, miss);
        Row d_v, minus_v;
        for (int j = 0; j < kVectors; ++j) {
          d_v.v[j] = betas[t] * d_u.v[j];
          minus_v.v[j] = -decays[t] * d_v.v[j];
        }
        float padded[kColumns];
        store_row(padded, d_v);
        float* v_gradient =
            args.d_qkv + row * width + 2 * f.n_key_heads * Dk + item.head * Dv + c0;
        for (int c = 0; c < n; ++c) v_gradient[c] = padded[c];
        Vec kept_products{};
        for (int i = 0; i < Dk; ++i) {
          Row d = load_row(D + i * kColumns);
          const Row s = load_row(before + i * kColumns);
          d_k[i] += reduce_add(products(s, minus_v, products(d, u, Vec{})));
          add(d, -k[i], d_v);
          kept_products = products(d, s, kept_products);
          for (int j = 0; j < kVectors; ++j) d.v[j] *= decays[t];
          store_row(D + i * kColumns, d);
        }
        d_decay[t] += decays[t] * reduce_add(kept_products);
      }
    }
  }

  for (int t = 0; t < T; ++t) {
    const std::int64_t row = item.segment->row + t;
    const float z = f.a[row * f.a_stride + item.head] + f.dt_bias[item.head];
    const std::int64_t at = row * f.n_value_heads + item.head;
    args.d_a[at] = d_decay[t] * -head.rate * sigmoid(broadcast(z))[0];
    args.d_b[at] = d_beta[t] * betas[t] * (1 - betas[t]);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
