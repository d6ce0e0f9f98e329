// Sixteen tokens at once, as products of small matrices. With e_i the decay of token i,
// E_i = e_1 ... e_i and D_ij = e_{j+1} ... e_i, for each column of the state by itself
//   u_i = beta_i (v_i - E_i S^T k_i - sum_{j<i} D_ij (k_i k_j) u_j)
//   o_i = E_i S^T q_i + sum_{j<=i} D_ij (q_i k_j) u_j
//   S <- E_16 S + sum_j D_16,j k_j u_j^T
// so the state is read twice and written once in sixteen tokens, and a value of it
// takes three multiply-adds a token where the step form takes four. Columns lie along
// vectors: the triangular system is plain substitution. Decays are products of numbers
// below one, never differences of logarithms. Bound by multiply-adds. Source: Yang et
// al. 2024, section 3.3 (there with the inverse formed).
#include "optiq/kernels/gated_delta/gated_delta.h"
#include "optiq/kernels/gated_delta/gated_delta_tokens.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kChunk = 16;                  // tokens
constexpr int kPacked = 2 * kChunk;         // a row of packed keys, then queries
constexpr int kVectors = 2;                 // of a panel of columns
constexpr int kPanel = kVectors * kLanes;   // columns
constexpr int kRows = kLanes == 8 ? 4 : 8;  // of a register tile, by registers

struct Chunk {
  int tokens;
  float beta[kChunk];
  float reach[kChunk];             // E_i
  float last[kChunk];              // D_16,i
  float keys[kChunk * kChunk];     // beta_i D_ij (k_i k_j), j < i
  float queries[kChunk * kChunk];  // D_ij (q_i k_j), j <= i
};

// out[r] = sum_i packed[i][r] B[i] for rows r of the keys and queries in use.
template <int kWidth>
OPTIQ_INLINE void product(const float* packed, const float* B, int stride, int key_dim,
                          int tokens, float* out) {
  for (int first = 0; first < kPacked; first += kRows) {
    if (first % kChunk >= tokens) continue;
    Vec sum[kRows][kWidth] = {};  // kRows x kWidth vectors
    for (int i = 0; i < key_dim; ++i) {
      Vec b[kWidth];
      for (int c = 0; c < kWidth; ++c) b[c] = load(B + i * stride + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec a = broadcast(packed[i * kPacked + first + r]);
        for (int c = 0; c < kWidth; ++c) sum[r][c] = multiply_add(a, b[c], sum[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kWidth; ++c)
        store(out + ((first + r) * kWidth + c) * kLanes, sum[r][c]);
  }
}

// Fills packed [Dk][keys of the tokens, queries] and the chunk's small matrices.
void prepare(const GatedDeltaHead& h, int begin, int tokens, float* packed,
             Chunk& chunk) {
  const int Dk = h.args.key_dim;
  chunk.tokens = tokens;
  for (int t = 0; t < kChunk; ++t) {
    if (t >= tokens) {
      for (int i = 0; i < Dk; ++i)
        packed[i * kPacked + t] = packed[i * kPacked + kChunk + t] = 0;
      continue;
    }
    const float* k = h.k(begin + t);
    const float* q = h.q(begin + t);
    const float k_scale = inverse_length(k, Dk), q_scale = query_scale(h, begin + t);
    for (int i = 0; i < Dk; ++i) {
      packed[i * kPacked + t] = k[i] * k_scale;
      packed[i * kPacked + kChunk + t] = q[i] * q_scale;
    }
  }
  float dots[kPacked * kChunk];  // k_i k_j, then q_i k_j
  product<kChunk / kLanes>(packed, packed, kPacked, Dk, tokens, dots);
  float decays[kChunk];  // D_ij of the row i
  float reach = 1;
  for (int i = 0; i < tokens; ++i) {
    const float decay = decay_of(h, begin + i), beta = beta_of(h, begin + i);
    reach *= decay;
    chunk.reach[i] = reach;
    chunk.beta[i] = beta;
    for (int j = 0; j < i; ++j) {
      decays[j] *= decay;
      chunk.keys[i * kChunk + j] = beta * decays[j] * dots[i * kChunk + j];
    }
    decays[i] = 1;
    for (int j = 0; j <= i; ++j)
      chunk.queries[i * kChunk + j] = decays[j] * dots[(kChunk + i) * kChunk + j];
  }
  for (int j = 0; j < tokens; ++j) chunk.last[j] = decays[j];
}

// The chunk on a panel S [Dk rounded up to kRows][kPanel]; v and o point to the panel's
// first column, of which it has n.
void run_panel(const Chunk& chunk, const float* packed, const GatedDeltaHead& h,
               int begin, int column, int n, float* S) {
  const int Dk = h.args.key_dim;
  float recalled[kPacked * kPanel], u[kChunk * kPanel];
  product<kVectors>(packed, S, kPanel, Dk, chunk.tokens, recalled);
  for (int i = 0; i < chunk.tokens; ++i) {
    float edge[kPanel] = {};
    const float* v = h.v(begin + i) + column;
    float* o = h.o(begin + i) + column;
    if (n < kPanel) {
      for (int c = 0; c < n; ++c) edge[c] = v[c];
      v = edge;
    }
    const Vec reach = broadcast(chunk.reach[i]);
    Vec x[kVectors], y[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      const float* r = recalled + i * kPanel + c * kLanes;
      x[c] = chunk.beta[i] * (load(v + c * kLanes) - reach * load(r));
      y[c] = reach * load(r + kChunk * kPanel);
    }
    for (int j = 0; j < i; ++j) {
      const Vec k = broadcast(chunk.keys[i * kChunk + j]);
      const Vec q = broadcast(chunk.queries[i * kChunk + j]);
      for (int c = 0; c < kVectors; ++c) {
        const Vec before = load(u + j * kPanel + c * kLanes);
        x[c] -= k * before;
        y[c] = multiply_add(q, before, y[c]);
      }
    }
    const Vec q = broadcast(chunk.queries[i * kChunk + i]);
    for (int c = 0; c < kVectors; ++c) {
      store(u + i * kPanel + c * kLanes, x[c]);
      store((n < kPanel ? edge : o) + c * kLanes, multiply_add(q, x[c], y[c]));
    }
    for (int c = 0; n < kPanel && c < n; ++c) o[c] = edge[c];
  }
  for (int j = 0; j < chunk.tokens; ++j)
    for (int c = 0; c < kPanel; c += kLanes)
      store(u + j * kPanel + c, chunk.last[j] * load(u + j * kPanel + c));
  const Vec reach = broadcast(chunk.reach[chunk.tokens - 1]);
  for (int i = 0; i < Dk; i += kRows) {
    Vec s[kRows][kVectors];  // kRows x kVectors vectors
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVectors; ++c)
        s[r][c] = reach * load(S + (i + r) * kPanel + c * kLanes);
    for (int j = 0; j < chunk.tokens; ++j) {
      Vec b[kVectors];
      for (int c = 0; c < kVectors; ++c) b[c] = load(u + j * kPanel + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec k = broadcast(packed[(i + r) * kPacked + j]);
        for (int c = 0; c < kVectors; ++c) s[r][c] = multiply_add(k, b[c], s[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kVectors; ++c)
        store(S + (i + r) * kPanel + c * kLanes, s[r][c]);
  }
}

}  // namespace

void gated_delta_chunks(const GatedDeltaArgs& args, const GatedDeltaItem& item,
                        float* scratch) {
  const GatedDeltaHead h = head_of(args, item);
  const int Dk = args.key_dim, Dv = args.value_dim, n = h.columns();
  const int rows = (Dk + kRows - 1) / kRows * kRows;
  const int panels = (n + kPanel - 1) / kPanel;
  float* packed = scratch;                           // [rows][kPacked]
  float* S = packed + (std::int64_t)rows * kPacked;  // [panels][rows][kPanel]
  const auto width = [&](int panel) {
    const int left = n - panel * kPanel;
    return left < kPanel ? left : kPanel;
  };
  for (std::int64_t i = 0; i < (std::int64_t)rows * (kPacked + panels * kPanel); ++i)
    scratch[i] = 0;
  for (int p = 0; p < panels; ++p)
    copy_rows(item.segment->state_in + h.state_offset() + p * kPanel, Dv,
              S + (std::int64_t)p * rows * kPanel, kPanel, Dk, width(p));
  Chunk chunk;
  for (int t = 0; t < item.segment->tokens; t += kChunk) {
    const int left = item.segment->tokens - t;
    prepare(h, t, left < kChunk ? left : kChunk, packed, chunk);
    for (int p = 0; p < panels; ++p)
      run_panel(chunk, packed, h, t, p * kPanel, width(p),
                S + (std::int64_t)p * rows * kPanel);
  }
  for (int p = 0; p < panels; ++p)
    copy_rows(S + (std::int64_t)p * rows * kPanel, kPanel,
              item.segment->state_out + h.state_offset() + p * kPanel, Dv, Dk,
              width(p));
}

}  // namespace optiq::kernels::OPTIQ_SIMD
