// A tile of query rows walks its keys in blocks of 64 with an online softmax. Keys are
// transposed, so that scores come as vectors of keys and need no sums across lanes:
// for many rows once into a panel that all rows share, for few rows in registers.
// Prefill is bound by multiply-adds (6 rows by 4 vectors in registers), decode by the
// bytes of keys and values. Blocks in coded pages: coded_block.h. Source: attention.h;
// the register tile as in Goto and van de Geijn 2008.
#include "optiq/kernels/attention/attention_microkernel.h"
#include "optiq/kernels/attention/attention_tile.h"
#include "optiq/kernels/attention/coded_block.h"
#include "optiq/kernels/kv_page/rotation.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

// What covers the latency of memory for two streams: measured, best at 32 to 64 KiB.
constexpr int kAheadBytes = 48 << 10;

constexpr float kLowest = -1e30f;  // below any score; its exponential is 0

OPTIQ_INLINE int min_int(int a, int b) { return a < b ? a : b; }
OPTIQ_INLINE int max_int(int a, int b) { return a > b ? a : b; }

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
  RoundedRows rounded_q;        // of all groups; for coded keys
  RoundedRows rounded_weights;  // of one group and block; for coded values
};

// Keys or values of a block: rows of floats, or codes in a page. `ahead`: bytes from
// here to what is to be asked for, 0 for nothing.
struct BlockSide {
  const KvSide* coded;  // null: floats
  const std::byte* head;
  const void* rows;
  FloatType type;
  std::int64_t stride;
  std::int64_t ahead;
};

struct Tile {
  const AttentionArgs& args;
  const AttentionTile& tile;
  const AttentionSegment& segment;
  KvTransform transform;
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

// scores = q panel.
OPTIQ_INLINE void multiply_panel(const Tile& t, int row, int rows, int keys) {
  for (int j = 0; j < keys; j += kPanelKeys)
    multiply<float>(rows, t.w.q + row * t.padded, t.padded, t.w.panel + j * t.padded,
                    kPanelKeys, t.dim, t.w.scores + row * kBlockKeys + j, kBlockKeys,
                    nullptr, (min_int(keys - j, kPanelKeys) + kLanes - 1) / kLanes);
}

// sums = factor sums + weights values.
OPTIQ_INLINE void multiply_values(const Tile& t, int row, int rows, int keys) {
  multiply<float>(rows, t.w.scores + row * kBlockKeys, kBlockKeys, t.w.values, t.padded,
                  keys, t.w.sums + row * t.padded, t.padded, t.w.factor + row,
                  t.vectors);
}

template <class Value>
OPTIQ_INLINE bool all_finite(const Value* v, std::int64_t stride, int keys,
                             const Tile& t) {
  Vec zero{}, sum{};  // not a number once something was not finite
  for (int j = 0; j < keys; ++j)
    for (int i = 0; i < t.dim; i += kLanes) {
      const Value* from = v + j * stride + i;
      sum = multiply_add(
          i + kLanes <= t.dim ? load_value(from) : load_first(from, t.dim - i), zero,
          sum);
    }
  return reduce_add(sum) == 0;
}

// multiply_values, each row by itself with the keys of [begin, begin + keys) that it
// sees.
OPTIQ_INLINE void multiply_seen_values(const Tile& t, int row, int rows, int begin,
                                       int keys) {
  for (int r = row; r < row + rows; ++r) {
    const int first = min_int(max_int(t.visible_begin(r) - begin, 0), keys);
    const int end = min_int(t.visible_end(r) - begin, keys);
    multiply<float>(1, t.w.scores + r * kBlockKeys + first, kBlockKeys,
                    t.w.values + first * t.padded, t.padded, max_int(end - first, 0),
                    t.w.sums + r * t.padded, t.padded, t.w.factor + r, t.vectors);
  }
}

// Scores become weights: of keys [begin, begin + keys), those outside
// [visible_begin, visible_end) weigh 0, as do all behind up to a whole block. Sets
// factor, largest and weight of the row.
OPTIQ_INLINE void soften_row(const Tile& t, int row, int begin, int keys) {
  constexpr int kVectors = kBlockKeys / kLanes;
  float* scores = t.w.scores + row * kBlockKeys;
  const int first = t.visible_begin(row) - begin;
  const int end = min_int(t.visible_end(row) - begin, keys);
  Vec s[kVectors];
  Vec largest = broadcast(kLowest);
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) s[i] = load(scores + i * kLanes) * t.args.scale;
  if (first > 0 || end < kBlockKeys)
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) {
      const VecInt key = lane_numbers() + i * kLanes;
      s[i] = ((key >= first) & (key < end)) ? s[i] : broadcast(-__builtin_inff());
    }
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) largest = max(s[i], largest);
  const float before = t.w.largest[row];
  const float block = reduce_max(largest);
  const float now = block > before ? block : before;
  Vec sum{};
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    const Vec p = exp(s[i] - now);
    store(scores + i * kLanes, p);
    sum += p;
  }
  const float factor = before == now ? 1.0f : exp(broadcast(before - now))[0];
  t.w.factor[row] = factor;
  t.w.largest[row] = now;
  t.w.weight[row] = t.w.weight[row] * factor + reduce_add(sum);
}

// Scores of floats. `ahead` counts values.
template <class Value>
OPTIQ_INLINE void score_floats(const Tile& t, int row, int rows, const BlockSide& side,
                               int keys) {
  const auto* k = (const Value*)side.rows;
  const std::int64_t ahead = side.ahead / (int)sizeof(Value);
  const float* q = t.w.q + row * t.padded;
  float* scores = t.w.scores + row * kBlockKeys;
  if (rows > kFewRows) {
    pack_keys(k, side.stride, keys, t);
    multiply_panel(t, row, rows, keys);
    return;
  }
#define OPTIQ_FEW(n)                                                                   \
  case n:                                                                              \
    score_few<n>(q, t.padded, t.dim, k, side.stride, keys, scores, kBlockKeys, ahead); \
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

template <class Value>
OPTIQ_INLINE void sum_floats(const Tile& t, int row, int rows, const BlockSide& side,
                             int begin, int keys) {
  const auto* v = (const Value*)side.rows;
  const bool all_see_all =
      t.visible_end(row) >= begin + keys && t.visible_begin(t.rows - 1) <= begin;
  if (!all_see_all && !all_finite(v, side.stride, keys, t)) {
    // A weight of 0 does not hide such a value.
    pack_values(v, side.stride, keys, t);
    multiply_seen_values(t, row, rows, begin, keys);
    return;
  }
  if (rows > kFewRows || t.dim % kLanes != 0) {
    pack_values(v, side.stride, keys, t);
    multiply_values(t, row, rows, keys);
    return;
  }
  multiply<Value>(rows, t.w.scores + row * kBlockKeys, kBlockKeys, v, side.stride, keys,
                  t.w.sums + row * t.padded, t.padded, t.w.factor + row, t.vectors,
                  side.ahead / (int)sizeof(Value));
}

// Keys whose scores have no short form, through their definition, into the panel.
static void decode_qjl_keys(const Tile& t, const BlockSide& side, int keys) {
  double x[kMaxHeadDim];
  for (int key = 0; key < keys; ++key) {
    ref::stored_row(*side.coded, side.head, true, key, t.transform,
                    {x, (std::size_t)t.dim});
    float* to = t.w.panel + key / kPanelKeys * t.padded * kPanelKeys + key % kPanelKeys;
    for (int d = 0; d < t.dim; ++d) to[d * kPanelKeys] = (float)x[d];
  }
}

OPTIQ_INLINE void score_block(const Tile& t, int row, int rows, const BlockSide& side,
                              int keys) {
  if (side.coded && side.coded->format.kind == KvKind::kTurboQjl) {
    decode_qjl_keys(t, side, keys);
    multiply_panel(t, row, rows, keys);
  } else if (side.coded) {
    const CodedBlock block{*side.coded, side.head, t.dim, keys, side.ahead};
    // The values' room is free while keys are at work.
    const std::uint8_t* columns = unpack_keys(block, (std::uint8_t*)t.w.values);
    if (t.args.activation == Activation::kExact) {
      decode_keys(block, columns, t.w.panel);
      multiply_panel(t, row, rows, keys);
    } else {
      score_codes(from_row(t.w.rounded_q, row), rows, block, columns,
                  t.w.scores + row * kBlockKeys);
    }
  } else if (side.type == FloatType::kF32) {
    score_floats<float>(t, row, rows, side, keys);
  } else if (side.type == FloatType::kF16) {
    score_floats<Half>(t, row, rows, side, keys);
  } else {
    score_floats<BFloat>(t, row, rows, side, keys);
  }
}

OPTIQ_INLINE void sum_block(const Tile& t, int row, int rows, const BlockSide& side,
                            int begin, int keys) {
  if (side.coded) {
    const CodedBlock block{*side.coded, side.head, t.dim, keys, side.ahead};
    const std::uint8_t* columns = unpack_values(block, (std::uint8_t*)t.w.panel);
    if (t.args.activation == Activation::kExact) {
      decode_values(block, columns, t.w.values);
      multiply_values(t, row, rows, keys);
    } else {
      sum_codes(t.w.scores + row * kBlockKeys, rows, block, columns, t.w.factor + row,
                t.w.sums + row * t.padded, t.padded,
                from_row(t.w.rounded_weights, row));
    }
  } else if (side.type == FloatType::kF32) {
    sum_floats<float>(t, row, rows, side, begin, keys);
  } else if (side.type == FloatType::kF16) {
    sum_floats<Half>(t, row, rows, side, begin, keys);
  } else {
    sum_floats<BFloat>(t, row, rows, side, begin, keys);
  }
}

struct Block {
  BlockSide k, v;
};

// A block of the strided views. Where rows do not lie one after another, or so many are
// not seen any more, nothing is asked for.
OPTIQ_INLINE Block view_block(const Tile& t, int begin, int seen) {
  const KvView& kv = t.segment.kv;
  const auto side = [&](const void* rows, std::int64_t head_stride, std::int64_t stride)
      __attribute__((always_inline)) {
    const std::int64_t at = t.tile.kv_head * head_stride + begin * stride;
    const bool more =
        stride == t.dim && (std::int64_t)seen * t.dim * size_of(kv.type) >= kAheadBytes;
    return BlockSide{nullptr, nullptr, (const char*)rows + at * size_of(kv.type),
                     kv.type, stride,  more ? kAheadBytes : 0};
  };
  return {side(kv.k, kv.k_head_stride, kv.k_row_stride),
          side(kv.v, kv.v_head_stride, kv.v_row_stride)};
}

// A block in a page. What is asked for lies as many pages on as hold kAheadBytes of the
// head.
OPTIQ_INLINE Block page_block(const Tile& t, int begin, int seen) {
  const KvPages& pages = *t.segment.pages;
  const int page = begin / kBlockKeys;
  const bool in_floats = page < pages.float_pages;
  const KvLayout& layout = in_floats ? *pages.float_layout : *pages.coded_layout;
  const std::int64_t offset = (in_floats ? pages.float_offset : pages.coded_offset) +
                              t.tile.kv_head * layout.head_bytes;
  const std::byte* head = pages.pages[page] + offset;
  const int on = (int)((kAheadBytes + layout.head_bytes - 1) / layout.head_bytes);
  const bool more =
      seen > (on - 1) * kBlockKeys && in_floats == (page + on < pages.float_pages);
  const std::int64_t ahead = more ? pages.pages[page + on] + offset - head : 0;
  const auto side = [&](const KvSide& s) __attribute__((always_inline)) {
    const bool floats = s.format.kind == KvKind::kFloat;
    return BlockSide{floats ? nullptr : &s, head,  head + s.codes,
                     s.format.type,         t.dim, ahead};
  };
  return {side(layout.k), side(layout.v)};
}

// One block of keys [begin, begin + keys), seen by rows from `row` on.
OPTIQ_INLINE void walk_block(const Tile& t, int row, int begin, int keys) {
  const int rows = t.rows - row;
  const int seen = t.visible_end(t.rows - 1) - begin - keys;
  const Block block =
      t.segment.pages ? page_block(t, begin, seen) : view_block(t, begin, seen);
  score_block(t, row, rows, block.k, keys);
  for (int r = row; r < t.rows; ++r) soften_row(t, r, begin, keys);
  sum_block(t, row, rows, block.v, begin, keys);
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
    walk_block(t, row, begin, keys);
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

OPTIQ_INLINE void scale_channels(const float* scale, int dim, float* x) {
  for (int i = 0; scale && i < dim; ++i) x[i] *= scale[i];
}

// `total` is used up.
OPTIQ_INLINE void write_row(const Tile& t, int row, float* total, float weight) {
  const AttentionArgs& a = t.args;
  if (t.transform.v_signs) rotate_back(t.transform.v_signs, total, t.dim);
  scale_channels(of_head(t.transform.sum_scale, t.tile.kv_head, t.dim), t.dim, total);
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

// Keys that meet rounded queries; null where there are none.
OPTIQ_INLINE const KvSide* coded_keys_of(const AttentionSegment& segment) {
  if (!segment.pages || !segment.pages->coded_layout) return nullptr;
  const KvSide& k = segment.pages->coded_layout->k;
  const bool by_codes =
      k.format.kind == KvKind::kAffine || k.format.kind == KvKind::kTurbo;
  return by_codes ? &k : nullptr;
}

OPTIQ_INLINE Tile describe(const AttentionArgs& args, const AttentionTile& tile,
                           Workspace w) {
  const int lanes = kLanes;
  const AttentionSegment& segment = args.segments[tile.segment];
  const bool transformed = segment.pages && segment.pages->transform;
  return Tile{args,
              tile,
              segment,
              transformed ? *segment.pages->transform : KvTransform{},
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
    scratch += round_up(n, 16);  // a line of the cache
    return p;
  };
  const auto take_rounded = [&](int values, int groups) {
    RoundedRows r{};
    r.stride = values;
    r.groups = groups;
    r.codes = (std::int8_t*)take(rows * values / 4);
    r.start = (std::int32_t*)take(rows * groups);
    r.step = take(rows * groups);
    r.sum = take(rows * groups);
    return r;
  };
  Workspace w{};
  w.q = take(rows * padded);
  w.sums = take(rows * padded);
  w.total = take(rows * padded);
  w.panel = take(kBlockKeys * padded);
  w.values = take(kBlockKeys * round_up(padded, kTileDepth));
  w.scores = take(kBlockKeys * (rows + kFewRows));
  w.factor = take(rows);
  w.largest = take(rows);
  w.weight = take(rows);
  float* total_largest = take(rows);
  float* total_weight = take(rows);
  const KvSide* coded_keys = coded_keys_of(args.segments[tile.segment]);
  if (coded_keys)
    w.rounded_q = take_rounded(round_up(padded, kTileDepth), coded_keys->groups);
  w.rounded_weights = take_rounded(kBlockKeys, 1);
  const Tile t = describe(args, tile, w);
  for (int r = 0; r < t.rows; ++r)
    copy_row(args.q + t.token(r) * args.q_row_stride + t.head(r) * args.q_head_stride,
             t.dim, t.padded, w.q + r * t.padded);
  const float* q_scale = of_head(t.transform.q_scale, tile.kv_head, t.dim);
  for (int r = 0; r < t.rows && q_scale; ++r)
    scale_channels(q_scale, t.dim, w.q + r * t.padded);
  for (int r = 0; r < t.rows && t.transform.k_signs; ++r)
    rotate(t.transform.k_signs, w.q + r * t.padded, t.dim);
  for (int r = 0; r < t.rows && coded_keys; ++r)
    round_query(w.q + r * t.padded, t.dim, *coded_keys, from_row(w.rounded_q, r));
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

}  // namespace optiq::kernels::OPTIQ_SIMD
