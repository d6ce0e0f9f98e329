// Keys and values of a head once as rows and once as columns, and then for each query
// head and each 32 of its queries six small products between them. Bound by
// multiply-adds.
#include "optiq/kernels/attention/attention_backward.h"
#include "optiq/kernels/simd_product.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kRows = kAttentionBackwardRows;

OPTIQ_INLINE int rounded(int n) { return (n + 31) / 32 * 32 + 32; }

OPTIQ_INLINE void clear(float* p, std::int64_t n) {
  __builtin_memset(p, 0, (std::size_t)n * sizeof(float));
}

// Softmax over [begin, end) of a row of scores; zeros elsewhere in [0, width).
OPTIQ_INLINE void weights_of(float* row, int begin, int end, int width, float scale) {
  float largest = row[begin];
  for (int j = begin + 1; j < end; ++j) largest = row[j] > largest ? row[j] : largest;
  for (int j = 0; j < begin; ++j) row[j] = 0;
  for (int j = end; j < width; ++j) row[j] = 0;
  float sum = 0;
  int j = begin;
  Vec sums{};
  for (; j + kLanes <= end; j += kLanes) {
    const Vec e = exp((load(row + j) - largest) * scale);
    store(row + j, e);
    sums += e;
  }
  sum = reduce_add(sums);
  for (; j < end; ++j) {
    row[j] = exp(broadcast((row[j] - largest) * scale))[0];
    sum += row[j];
  }
  const float inverse = 1 / sum;
  for (j = begin; j < end; ++j) row[j] *= inverse;
}

}  // namespace

void attention_backward_item(const AttentionBackwardArgs& args,
                             const AttentionBackwardItem& item, float* scratch) {
  const int D = args.head_dim, T = item.tokens, H = args.n_heads, Hk = args.n_kv_heads;
  if (T == 0) return;
  const int group = H / Hk, Tp = rounded(T), Dp = rounded(D);
  scratch += (64 - (std::uintptr_t)scratch % 64) / 4;
  float* k_rows = scratch;                              // [T, Dp]
  float* v_rows = k_rows + (std::int64_t)Tp * Dp;       // [T, Dp]
  float* k_columns = v_rows + (std::int64_t)Tp * Dp;    // [D, Tp]
  float* v_columns = k_columns + (std::int64_t)D * Tp;  // [D, Tp]
  float* dk = v_columns + (std::int64_t)D * Tp;         // [T, Dp]
  float* dv = dk + (std::int64_t)Tp * Dp;               // [T, Dp]
  float* p = dv + (std::int64_t)Tp * Dp;                // [kRows, Tp]
  float* dp = p + (std::int64_t)kRows * Tp;             // [kRows, Tp]
  float* q = dp + (std::int64_t)kRows * Tp;             // [kRows, Dp]
  float* d_o = q + (std::int64_t)kRows * Dp;            // [kRows, Dp]
  float* o = d_o + (std::int64_t)kRows * Dp;            // [kRows, Dp]
  float* dq = o + (std::int64_t)kRows * Dp;             // [kRows, Dp]
  clear(k_rows, 2 * (std::int64_t)Tp * Dp + 2 * (std::int64_t)D * Tp);
  clear(q, 4 * (std::int64_t)kRows * Dp);
  for (int t = 0; t < T; ++t) {
    const std::int64_t at = ((item.row + t) * Hk + item.kv_head) * D;
    for (int i = 0; i < D; ++i) {
      k_rows[t * Dp + i] = k_columns[i * Tp + t] = args.k[at + i];
      v_rows[t * Dp + i] = v_columns[i * Tp + t] = args.v[at + i];
    }
  }

  clear(dk, 2 * (std::int64_t)Tp * Dp);
  for (int g = 0; g < group; ++g)
    for (int t0 = 0; t0 < T; t0 += kRows) {
      const int n = T - t0 < kRows ? T - t0 : kRows;
      // Keys that any of these queries sees: [low, high), low whole vectors.
      const int high = args.causal ? t0 + n : T;
      int low = args.window > 0 && t0 + 1 > args.window ? t0 + 1 - args.window : 0;
      low -= low % kProductColumns;
      const int width = high - low;
      const auto query = [&](int r) __attribute__((always_inline)) {
        return ((item.row + t0 + r) * H + item.kv_head * group + g) * (std::int64_t)D;
      };
      for (int r = 0; r < n; ++r) {
        __builtin_memcpy(q + r * Dp, args.q + query(r), sizeof(float) * (std::size_t)D);
        __builtin_memcpy(d_o + r * Dp, args.dy + query(r),
                         sizeof(float) * (std::size_t)D);
      }
      multiply({q, Dp, 1, k_columns + low, Tp, p, Tp, n, width, D, true});
      for (int r = 0; r < n; ++r) {
        const int t = t0 + r;
        const int end = (args.causal ? t + 1 : T) - low;
        const int begin =
            (args.window > 0 && t + 1 > args.window ? t + 1 - args.window : 0) - low;
        weights_of(p + r * Tp, begin < 0 ? 0 : begin, end, width, args.scale);
      }
      if (args.gate) {
        multiply(
            {p, Tp, 1, v_rows + (std::int64_t)low * Dp, Dp, o, Dp, n, D, width, true});
        for (int r = 0; r < n; ++r)
          for (int i = 0; i < D; ++i) {
            const std::int64_t at = query(r) + i;
            const float open = sigmoid(broadcast(args.gate[at]))[0];
            const float d = d_o[r * Dp + i];
            args.dgate[at] = d * o[r * Dp + i] * open * (1 - open);
            d_o[r * Dp + i] = d * open;
          }
      }
      multiply({d_o, Dp, 1, v_columns + low, Tp, dp, Tp, n, width, D, true});
      multiply(
          {p, 1, Tp, d_o, Dp, dv + (std::int64_t)low * Dp, Dp, width, D, n, false});
      for (int r = 0; r < n; ++r) {
        float *weights = p + r * Tp, *gradients = dp + r * Tp;
        float along = 0;
        for (int j = 0; j < width; ++j) along += weights[j] * gradients[j];
        for (int j = 0; j < width; ++j)
          gradients[j] = weights[j] * (gradients[j] - along) * args.scale;
      }
      multiply(
          {dp, Tp, 1, k_rows + (std::int64_t)low * Dp, Dp, dq, Dp, n, D, width, true});
      multiply({dp, 1, Tp, q, Dp, dk + (std::int64_t)low * Dp, Dp, width, D, n, false});
      for (int r = 0; r < n; ++r)
        __builtin_memcpy(args.dq + query(r), dq + r * Dp,
                         sizeof(float) * (std::size_t)D);
    }
  for (int t = 0; t < T; ++t) {
    const std::int64_t at = ((item.row + t) * Hk + item.kv_head) * D;
    __builtin_memcpy(args.dk + at, dk + (std::int64_t)t * Dp,
                     sizeof(float) * (std::size_t)D);
    __builtin_memcpy(args.dv + at, dv + (std::int64_t)t * Dp,
                     sizeof(float) * (std::size_t)D);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
