// Token by token. A tile of columns passes twice: once to recall S^T k, once to be
// written with k u^T added and read as S^T q. The first pass brings the tile into the
// cache for the second, so one token costs the bytes of the state, read and written
// once.
#include "optiq/kernels/gated_delta/gated_delta.h"
#include "optiq/kernels/gated_delta/gated_delta_tokens.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kGroup = 16;                  // tokens whose q and k are held
constexpr int kWide = kLanes == 8 ? 4 : 8;  // vectors of a tile, by registers
constexpr int kFewestChunkTokens = 16;      // see docs/decisions/kernels-delta.md

constexpr int kLine = 16;  // floats of a cache line
// Rows fetched before their turn, for a state that comes from afar; past the end of it
// a prefetch does nothing.
constexpr int kAhead = 16;

struct Token {
  const float* k;
  const float* q;
  float decay;
  float beta;
};

// A token on the tile of kVectors vectors of columns at S, whose rows are `stride`
// apart.
template <int kVectors>
OPTIQ_INLINE void step(const Token& token, int key_dim, float* S, std::int64_t stride,
                       const float* v, float* o) {
  const Vec decay = broadcast(token.decay);
  Vec u[kVectors] = {}, out[kVectors] = {};  // kVectors vectors of columns
  const float* row = S;
  for (int i = 0; i < key_dim; ++i, row += stride) {
    const Vec k = broadcast(token.k[i]);
    for (int c = 0; c < kVectors * kLanes; c += kLine)
      __builtin_prefetch(row + kAhead * stride + c, 1);
    for (int c = 0; c < kVectors; ++c)
      u[c] = multiply_add(k, load(row + c * kLanes), u[c]);
  }
  for (int c = 0; c < kVectors; ++c)
    u[c] = token.beta * (load(v + c * kLanes) - decay * u[c]);
  float* target = S;
  for (int i = 0; i < key_dim; ++i, target += stride) {
    const Vec k = broadcast(token.k[i]), q = broadcast(token.q[i]);
    for (int c = 0; c < kVectors; ++c) {
      const Vec s = multiply_add(k, u[c], decay * load(target + c * kLanes));
      store(target + c * kLanes, s);
      out[c] = multiply_add(q, s, out[c]);
    }
  }
  for (int c = 0; c < kVectors; ++c) store(o + c * kLanes, out[c]);
}

void run_steps(const GatedDeltaHead& h, float* scratch) {
  const int Dk = h.args.key_dim, Dv = h.args.value_dim, n = h.columns();
  float* S = h.item.segment->state_out + h.state_offset();
  copy_rows(h.item.segment->state_in + h.state_offset(), Dv, S, Dv, Dk, n);
  const int whole = n / kLanes * kLanes;
  float* units = scratch;                   // [kGroup][2][Dk]
  float* edge = scratch + 2 * kGroup * Dk;  // [Dk][kLanes]: columns of half a vector
  for (int i = 0; whole < n && i < Dk * kLanes; ++i) edge[i] = 0;
  copy_rows(S + whole, Dv, edge, kLanes, Dk, n - whole);
  Token tokens[kGroup];
  for (int begin = 0; begin < h.item.segment->tokens; begin += kGroup) {
    const int left = h.item.segment->tokens - begin;
    const int group = left < kGroup ? left : kGroup;
    for (int t = 0; t < group; ++t) {
      float* k = units + 2 * t * Dk;
      float* q = k + Dk;
      const float* x = h.k(begin + t);
      const float* y = h.q(begin + t);
      const float k_scale = inverse_length(x, Dk), q_scale = query_scale(h, begin + t);
      for (int i = 0; i < Dk; ++i) k[i] = x[i] * k_scale, q[i] = y[i] * q_scale;
      tokens[t] = {k, q, decay_of(h, begin + t), beta_of(h, begin + t)};
    }
    int c = 0;
    for (; c + kWide * kLanes <= whole; c += kWide * kLanes)
      for (int t = 0; t < group; ++t)
        step<kWide>(tokens[t], Dk, S + c, Dv, h.v(begin + t) + c, h.o(begin + t) + c);
    for (; c + 2 * kLanes <= whole; c += 2 * kLanes)
      for (int t = 0; t < group; ++t)
        step<2>(tokens[t], Dk, S + c, Dv, h.v(begin + t) + c, h.o(begin + t) + c);
    for (; c < whole; c += kLanes)
      for (int t = 0; t < group; ++t)
        step<1>(tokens[t], Dk, S + c, Dv, h.v(begin + t) + c, h.o(begin + t) + c);
    for (int t = 0; whole < n && t < group; ++t) {
      float v[kLanes] = {}, o[kLanes];
      for (int j = whole; j < n; ++j) v[j - whole] = h.v(begin + t)[j];
      step<1>(tokens[t], Dk, edge, kLanes, v, o);
      for (int j = whole; j < n; ++j) h.o(begin + t)[j] = o[j - whole];
    }
  }
  copy_rows(edge, kLanes, S + whole, Dv, Dk, n - whole);
}

}  // namespace

void gated_delta_item(const GatedDeltaArgs& args, const GatedDeltaItem& item,
                      float* scratch) {
  const bool chunks = args.form == GatedDeltaForm::kByLength
                          ? item.segment->tokens >= kFewestChunkTokens
                          : args.form == GatedDeltaForm::kChunk;
  if (chunks) return gated_delta_chunks(args, item, scratch);
  run_steps(head_of(args, item), scratch);
}

}  // namespace optiq::kernels::OPTIQ_SIMD
