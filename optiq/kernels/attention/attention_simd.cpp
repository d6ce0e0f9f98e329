// A tile of query rows walks its keys in blocks of 64 with an online softmax. Keys are
// transposed, so that scores come as vectors of keys and need no sums across lanes:
// for many rows once into a panel that all rows share, for few rows in registers.
// Prefill is bound by multiply-adds (6 rows by 4 vectors in registers), decode by the
// bytes of keys and values. Source: attention.h; the register tile as in Goto and van
// de Geijn 2008.
#include "optiq/kernels/attention/attention_microkernel.h"
#include "optiq/kernels/attention/attention_tile.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

// What covers the latency of memory for two streams: measured, best at 32 to 64 KiB.
constexpr int kAheadBytes = 48 << 10;

constexpr float kLowest = -1e30f;  // below any score; its exponential is 0

OPTIQ_INLINE int min_int(int a, int b) { return a < b ? a : b; }

// The lane numbers 0, 1, ...
OPTIQ_INLINE VecInt lane_numbers() {
  VecInt lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

// What one tile works in; `panel`, `values` and `scores` are of one block of keys.
struct Workspace {
  float* q;        // [rows, padded]
  float* sums;     // [rows, padded]: of this chunk
  float* total;    // [rows, padded]: of the chunks before
  float* panel;    // [kBlockKeys / kPanelKeys][padded][kPanelKeys]: keys transposed
  float* values;   // [kBlockKeys, padded]
  float* scores;   // [rows, kBlockKeys], then weights
  float* factor;   // [rows]
  float* largest;  // [rows]
  float* weight;   // [rows]
};

struct Tile {
  const AttentionArgs& args;
  const AttentionTile& tile;
  const AttentionSegment& segment;
  int group, rows, dim, padded, vectors;
  Workspace w;

  int position(int row) const {
    return segment.cached + (tile.row_begin + row) / group;
  }
  std::int64_t token(int row) const {
    return tile.first_token + (tile.row_begin + row) / group;
  }
  int head(int row) const {
    return tile.kv_head * group + (tile.row_begin + row) % group;
  }
  // Keys [visible_begin, visible_end) are seen by the row.
  int visible_begin(int row) const {
    const int p = position(row);
    return args.window > 0 && p >= args.window ? p - args.window + 1 : 0;
  }
  int visible_end(int row) const {
    return args.causal ? position(row) + 1 : segment.cached + segment.tokens;
  }
};

OPTIQ_INLINE void copy_row(const float* from, int dim, int padded, float* to) {
  for (int i = 0; i < padded; i += kLanes)
    store(to + i, i + kLanes <= dim ? load(from + i) : load_first(from + i, dim - i));
}

OPTIQ_INLINE void fill(float* p, std::int64_t n, float value) {
  for (std::int64_t i = 0; i < n; ++i) p[i] = value;
}

template <class Value>
OPTIQ_INLINE void pack_keys(const Value* k, std::int64_t stride, int keys,
                            const Tile& t) {
  for (int j = 0; j < keys; j += kLanes)
    for (int d = 0; d < t.dim; d += kLanes) {
      Vec columns[kLanes];
      load_transposed(k + j * stride + d, stride, keys - j, t.dim - d, columns);
      float* to =
          t.w.panel + (j / kPanelKeys * t.padded + d) * kPanelKeys + j % kPanelKeys;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(to + i * kPanelKeys, columns[i]);
    }
}

template <class Value>
OPTIQ_INLINE void pack_values(const Value* v, std::int64_t stride, int keys,
                              const Tile& t) {
  for (int j = 0; j < keys; ++j) {
    const Value* from = v + j * stride;
    for (int i = 0; i < t.padded; i += kLanes)
      store(t.w.values + j * t.padded + i, i + kLanes <= t.dim
                                               ? load_value(from + i)
                                               : load_first(from + i, t.dim - i));
  }
}

// Scores become weights: of keys [begin, begin + keys), those outside
// [visible_begin, visible_end) weigh 0. Sets factor, largest and weight of the row.
OPTIQ_INLINE void soften_row(const Tile& t, int row, int begin, int keys) {
  float* scores = t.w.scores + row * kBlockKeys;
  const int first = t.visible_begin(row) - begin, end = t.visible_end(row) - begin;
  const Vec lowest = broadcast(kLowest);
  Vec largest = lowest;
  for (int j = 0; j < keys; j += kLanes) {
    Vec s = load(scores + j) * t.args.scale;
    if (first > j || end < j + kLanes || keys < j + kLanes) {
      const int stop = end < keys ? end : keys;
      const VecInt key = lane_numbers() + j;
      s = ((key >= first) & (key < stop)) ? s : broadcast(-__builtin_inff());
    }
    store(scores + j, s);
    largest = max(s, largest);
  }
  const float before = t.w.largest[row];
  const float block = reduce_max(largest);
  const float now = block > before ? block : before;
  Vec sum{};
  for (int j = 0; j < keys; j += kLanes) {
    const Vec p = exp(load(scores + j) - now);
    store(scores + j, p);
    sum += p;
  }
  const float factor = exp(broadcast(before - now))[0];
  t.w.factor[row] = factor;
  t.w.largest[row] = now;
  t.w.weight[row] = t.w.weight[row] * factor + reduce_add(sum);
}

template <class Value>
OPTIQ_INLINE void score_all(const Tile& t, int row, int rows, const Value* k, int keys,
                            bool few, std::int64_t ahead) {
  const std::int64_t stride = t.segment.kv.k_row_stride;
  const float* q = t.w.q + row * t.padded;
  float* scores = t.w.scores + row * kBlockKeys;
  if (!few) {
    pack_keys(k, stride, keys, t);
    for (int j = 0; j < keys; j += kPanelKeys)
      multiply<float>(rows, q, t.padded, t.w.panel + j * t.padded, kPanelKeys, t.dim,
                      scores + j, kBlockKeys, nullptr,
                      (min_int(keys - j, kPanelKeys) + kLanes - 1) / kLanes);
    return;
  }
#define OPTIQ_FEW(n)                                                              \
  case n:                                                                         \
    score_few<n>(q, t.padded, t.dim, k, stride, keys, scores, kBlockKeys, ahead); \
    break
  // The scratch has room for the rows that are rounded up to.
  switch (rows <= 4 ? rows : rows <= 6 ? 6 : rows <= 8 ? 8 : kFewRows) {
    OPTIQ_FEW(1);
    OPTIQ_FEW(2);
    OPTIQ_FEW(3);
    OPTIQ_FEW(4);
    OPTIQ_FEW(6);
    OPTIQ_FEW(8);
    OPTIQ_FEW(kFewRows);
  }
#undef OPTIQ_FEW
}

// How far ahead to ask for keys or values: not at all where the rows do not lie one
// after another, or where so many are not seen any more.
template <class Value>
OPTIQ_INLINE std::int64_t ahead(const Tile& t, std::int64_t stride, int seen) {
  constexpr int kValues = kAheadBytes / (int)sizeof(Value);
  return stride == t.dim && (std::int64_t)seen * t.dim >= kValues ? kValues : 0;
}

// One block of keys [begin, begin + keys), seen by rows from `row` on.
template <class Value>
OPTIQ_INLINE void walk_block(const Tile& t, int row, int begin, int keys) {
  const KvView& kv = t.segment.kv;
  const int rows = t.rows - row;
  const bool few = rows <= kFewRows;
  const auto* k =
      (const Value*)kv.k + t.tile.kv_head * kv.k_head_stride + begin * kv.k_row_stride;
  const auto* v =
      (const Value*)kv.v + t.tile.kv_head * kv.v_head_stride + begin * kv.v_row_stride;
  const int seen = t.visible_end(t.rows - 1) - begin - keys;
  score_all(t, row, rows, k, keys, few, ahead<Value>(t, kv.k_row_stride, seen));
  for (int r = row; r < t.rows; ++r) soften_row(t, r, begin, keys);
  const float* weights = t.w.scores + row * kBlockKeys;
  float* sums = t.w.sums + row * t.padded;
  if (few && t.dim % kLanes == 0) {
    multiply<Value>(rows, weights, kBlockKeys, v, kv.v_row_stride, keys, sums, t.padded,
                    t.w.factor + row, t.vectors,
                    ahead<Value>(t, kv.v_row_stride, seen));
    return;
  }
  pack_values(v, kv.v_row_stride, keys, t);
  multiply<float>(rows, weights, kBlockKeys, t.w.values, t.padded, keys, sums, t.padded,
                  t.w.factor + row, t.vectors);
}

// One chunk, from nothing: leaves sums, largest and weight.
OPTIQ_INLINE void walk_chunk(const Tile& t, int chunk) {
  fill(t.w.sums, static_cast<std::int64_t>(t.rows) * t.padded, 0);
  fill(t.w.largest, t.rows, kLowest);
  fill(t.w.weight, t.rows, 0);
  const int chunk_end = min_int((chunk + 1) * kChunkKeys, t.visible_end(t.rows - 1));
  for (int begin = chunk * kChunkKeys; begin < chunk_end; begin += kBlockKeys) {
    const int keys = min_int(kBlockKeys, chunk_end - begin);
    if (t.visible_begin(0) >= begin + keys) continue;
    // Rows before the block see none of it.
    int row = 0;
    if (t.args.causal && begin > t.position(0))
      row = (begin - t.segment.cached) * t.group - t.tile.row_begin;
    if (t.segment.kv.type == FloatType::kF16)
      walk_block<Half>(t, row, begin, keys);
    else
      walk_block<float>(t, row, begin, keys);
  }
}

// The running result of a row's chunks, and the next one's behind it.
OPTIQ_INLINE void merge_row(float* total, float& total_largest, float& total_weight,
                            const float* sums, float largest, float weight, int dim) {
  const float now = largest > total_largest ? largest : total_largest;
  const float keep = exp(broadcast(total_largest - now))[0];
  const float add = exp(broadcast(largest - now))[0];
  total_largest = now;
  total_weight = multiply_add(broadcast(total_weight), broadcast(keep),
                              broadcast(weight * add))[0];
  for (int i = 0; i < dim; i += kLanes)
    store(total + i,
          multiply_add(load(total + i), broadcast(keep), load(sums + i) * add));
}

OPTIQ_INLINE void write_row(const Tile& t, int row, const float* total, float weight) {
  const AttentionArgs& a = t.args;
  const std::int64_t token = t.token(row);
  const int head = t.head(row);
  const float inverse = 1.0f / weight;
  const float* gate =
      a.gate ? a.gate + token * a.gate_row_stride + head * a.gate_head_stride : nullptr;
  float* y = a.y + (token * a.n_heads + head) * t.dim;
  for (int i = 0; i < t.dim; i += kLanes) {
    const int n = t.dim - i;
    Vec value = load(total + i) * inverse;
    if (gate) value *= sigmoid(n < kLanes ? load_first(gate + i, n) : load(gate + i));
    if (n >= kLanes) {
      store(y + i, value);
    } else {
      for (int j = 0; j < n; ++j) y[i + j] = value[j];
    }
  }
}

OPTIQ_INLINE Tile describe(const AttentionArgs& args, const AttentionTile& tile,
                           Workspace w) {
  const int lanes = kLanes;
  return Tile{args,
              tile,
              args.segments[tile.segment],
              args.n_heads / args.n_kv_heads,
              tile.row_end - tile.row_begin,
              args.head_dim,
              padded_dim(args.head_dim),
              (args.head_dim + lanes - 1) / lanes,
              w};
}

}  // namespace

void attention_tile(const AttentionArgs& args, const AttentionTile& tile,
                    float* scratch) {
  const int rows = max_tile_rows(args.head_dim), padded = padded_dim(args.head_dim);
  const auto take = [&](int n) {
    float* p = scratch;
    scratch += n;
    return p;
  };
  Workspace w{};
  w.q = take(rows * padded);
  w.sums = take(rows * padded);
  w.total = take(rows * padded);
  w.panel = take(kBlockKeys * padded);
  w.values = take(kBlockKeys * padded);
  w.scores = take(kBlockKeys * (rows + kFewRows));
  w.factor = take(rows);
  w.largest = take(rows);
  w.weight = take(rows);
  float* total_largest = take(rows);
  float* total_weight = take(rows);
  const Tile t = describe(args, tile, w);
  for (int r = 0; r < t.rows; ++r)
    copy_row(args.q + t.token(r) * args.q_row_stride + t.head(r) * args.q_head_stride,
             t.dim, t.padded, w.q + r * t.padded);
  fill(w.total, static_cast<std::int64_t>(t.rows) * t.padded, 0);
  fill(total_largest, t.rows, kLowest);
  fill(total_weight, t.rows, 0);
  for (int chunk = tile.chunk_begin; chunk < tile.chunk_end; ++chunk) {
    walk_chunk(t, chunk);
    for (int r = 0; r < t.rows; ++r) {
      float* sums = w.sums + r * t.padded;
      if (!tile.partial) {
        merge_row(w.total + r * t.padded, total_largest[r], total_weight[r], sums,
                  w.largest[r], w.weight[r], t.padded);
        continue;
      }
      float* out = tile.partial + partial_size(r, t.dim);
      out[0] = w.largest[r];
      out[1] = w.weight[r];
      for (int i = 0; i < t.padded; i += kLanes) store(out + 2 + i, load(sums + i));
    }
  }
  if (tile.partial) return;
  for (int r = 0; r < t.rows; ++r)
    write_row(t, r, w.total + r * t.padded, total_weight[r]);
}

void attention_merge(const AttentionArgs& args, const AttentionTile& tile,
                     const float* partials, int n_partials) {
  const Tile t = describe(args, tile, {});
  float total[padded_dim(kMaxHeadDim)];
  for (int r = 0; r < t.rows; ++r) {
    float largest = kLowest, weight = 0;
    fill(total, t.padded, 0);
    for (int i = 0; i < n_partials; ++i) {
      const float* partial =
          partials + i * partial_size(t.rows, t.dim) + partial_size(r, t.dim);
      merge_row(total, largest, weight, partial + 2, partial[0], partial[1], t.padded);
    }
    write_row(t, r, total, weight);
  }
}

void append_rows(const KvAppendArgs& a, int head) {
  for (int row = 0; row < a.rows; ++row) {
    const float* from = a.source + row * a.row_stride + head * a.head_stride;
    const std::int64_t at =
        ((std::int64_t)head * a.capacity + a.first_row + row) * a.head_dim;
    for (int i = 0; i < a.head_dim; i += kLanes) {
      const int n = a.head_dim - i;
      const Vec value = n < kLanes ? load_first(from + i, n) : load(from + i);
      if (a.type == FloatType::kF32) {
        float* to = (float*)a.cache + at + i;
        if (n >= kLanes)
          store(to, value);
        else
          for (int j = 0; j < n; ++j) to[j] = value[j];
      } else {
        Half* to = (Half*)a.cache + at + i;
        Half halves[kLanes];
        store_f16(n >= kLanes ? to : halves, value);
        for (int j = 0; j < n && n < kLanes; ++j) to[j] = halves[j];
      }
    }
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
