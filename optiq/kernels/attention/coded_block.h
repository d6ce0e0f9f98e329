// A block of 64 keys or values in coded pages: scores and weighted sums from the codes.
//
// A block is unpacked once into columns of bytes, in the first-level cache, for all
// rows. Keys: queries are rounded to int8 by group, q ~ step q8, and with
//   k = scale (c - middle) + bias:  q k ~ sum_g scale step (q8 c - middle sum q8)
//                                              + bias step sum q8,
// where the bracket is a whole number. Values: weights p of a row are rounded by group,
// p_t scale_t ~ step w_t, and with that
//   sum_t p_t v_t ~ sum_g step (w c - middle sum w) + sum_t p_t bias_t,
// the last sum in float. Weights are rounded by adding a number in (0, 1) that depends
// on the token's place and cutting: over a block this errs to neither side, so many
// small weights beside a large one keep their share. Whole sums are exact and float
// steps run in the order of groups, so the tiling leaves no trace in the result.
// Included by attention_simd.cpp only.
#pragma once
#include "optiq/kernels/attention/attention_microkernel.h"
#include "optiq/kernels/attention/attention_tile.h"
#include "optiq/kernels/attention/coded_dot.h"

namespace optiq::kernels::OPTIQ_SIMD {

// Below this the largest weight of a block counts as none: its inverse would overflow.
constexpr float kSmallestRounded = 1e-30f;
constexpr float kLargestRounded = 1e30f;

/// Rows rounded to int8, and for each group of a row what the codes' middle adds to
/// their products, the step, and step times the sum.
struct RoundedRows {
  std::int8_t* codes;  // [rows, stride]
  std::int64_t stride;
  std::int32_t* start;  // [rows, groups]
  float* step;          // [rows, groups]
  float* sum;           // [rows, groups]
  int groups;
};

/// Behind `row` rows.
OPTIQ_INLINE RoundedRows from_row(const RoundedRows& r, int row) {
  const std::int64_t at = (std::int64_t)row * r.groups;
  return {r.codes + row * r.stride,
          r.stride,
          r.start + at,
          r.step + at,
          r.sum + at,
          r.groups};
}

OPTIQ_INLINE int round_up(int n, int step) { return (n + step - 1) / step * step; }

/// One query, q [padded_dim] with zeros behind its values, for keys of this side.
OPTIQ_INLINE void round_query(const float* q, int dim, const KvSide& side,
                              const RoundedRows& to) {
  const int middle = code_bytes(side.format).middle;
  const int padded = padded_dim(dim);
  for (int i = padded; i < round_up(dim, kTileDepth); ++i) to.codes[i] = 0;
  for (int g = 0; g < side.groups; ++g) {
    const int begin = g * side.group_values;
    const int end = g + 1 < side.groups ? begin + side.group_values : padded;
    // As whole numbers, in whose order a NaN is the largest.
    VecInt largest{};
    for (int i = begin; i < end; i += kLanes) {
      const VecInt magnitude = (VecInt)load(q + i) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    const std::int32_t bits = reduce_max(largest);
    float most;
    __builtin_memcpy(&most, &bits, 4);
    const float inverse = most > kSmallestRounded ? 127.0f / most : 0.0f;
    VecInt sum{};
    for (int i = begin; i < end; i += kLanes) {
      const VecInt code = to_int(round_to_nearest(load(q + i) * inverse));
      sum += code;
      store_low_bytes(to.codes + i, code);
    }
    const std::int32_t total = reduce_add(sum);
    const float step = most * (1.0f / 127);
    to.start[g] = -middle * total;
    to.step[g] = step;
    to.sum[g] = step * (float)total;
  }
}

/// How one coded block is reached: where its head begins, its keys in use, and how far
/// from it the block lies that is to be asked for (0: none).
struct CodedBlock {
  const KvSide& side;
  const std::byte* head;
  int dim, keys;
  std::int64_t ahead;
};

OPTIQ_INLINE void ask_for_scales(const CodedBlock& b) {
  if (b.ahead)
    for (std::int64_t i = b.side.scales; i < b.side.codes + b.side.bytes; i += 64)
      prefetch(b.head + b.ahead + i);
}

OPTIQ_INLINE int key_tiles(const CodedBlock& b) {
  return round_up(b.dim, kTileDepth) / kTileDepth;
}

OPTIQ_INLINE const std::uint8_t* unpack_keys(const CodedBlock& b,
                                             std::uint8_t* columns) {
  ask_for_scales(b);
  const int tiles = round_up(b.keys, kTileLanes) / kTileLanes * key_tiles(b);
  return unpack_tiles(b.side.format, b.head + b.side.codes, tiles, b.ahead, columns);
}

OPTIQ_INLINE const std::uint8_t* unpack_values(const CodedBlock& b,
                                               std::uint8_t* columns) {
  ask_for_scales(b);
  const int tiles = padded_dim(b.dim) / kTileLanes * (kPageTokens / kTileDepth);
  return unpack_tiles(b.side.format, b.head + b.side.codes, tiles, b.ahead, columns);
}

// Scores of kRows rows and kVectors vectors of keys from `key` on.
template <int kRows, int kVectors, int kSums>
OPTIQ_INLINE void score_tile(const RoundedRows& q, const CodedBlock& b,
                             const std::uint8_t* columns, int key, float* scores) {
  const bool affine = b.side.format.kind == KvKind::kAffine;
  const std::int64_t tile_stride = (std::int64_t)key_tiles(b) * kTileBytes;
  columns += key / kTileLanes * tile_stride + key % kTileLanes * 4;
  const Half* scales = (const Half*)(b.head + b.side.scales) + key;
  const Half* biases = (const Half*)(b.head + b.side.biases) + key;
  const int quads = key_tiles(b) * 8;
  Vec score[kRows][kVectors] = {};
  for (int g = 0; g < q.groups; ++g) {
    const int begin = g * b.side.group_values / 4;
    const int end = g + 1 < q.groups ? begin + b.side.group_values / 4 : quads;
    VecInt sum[kRows][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = q.start[r * q.groups + g] - (VecInt){};
    dot_columns<kRows, kVectors, kSums>(q.codes + 4 * begin, q.stride,
                                        columns + 64 * begin, tile_stride, end - begin,
                                        sum);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec scale = load_f16(scales + g * kPageTokens + v * kLanes);
      Vec bias{};
      if (affine) bias = load_f16(biases + g * kPageTokens + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const Vec product = to_float(sum[r][v]) * q.step[r * q.groups + g];
        score[r][v] = multiply_add(product, scale, score[r][v]);
        if (affine)
          score[r][v] =
              multiply_add(bias, broadcast(q.sum[r * q.groups + g]), score[r][v]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      store(scores + r * kBlockKeys + v * kLanes, score[r][v]);
}

/// scores [rows, kBlockKeys]: of the block's keys, rounded up to kTileLanes of them.
static void score_codes(const RoundedRows& q, int rows, const CodedBlock& b,
                        const std::uint8_t* columns, float* scores) {
  constexpr int kStep = kDotVectors * kLanes;
  for_row_tiles(
      b.side.format,
      rows, [&]<int kRows, int kSums>(int row) __attribute__((always_inline)) {
        const RoundedRows from = from_row(q, row);
        float* to = scores + row * kBlockKeys;
        int key = 0;
        for (; key + kStep <= round_up(b.keys, kTileLanes); key += kStep)
          score_tile<kRows, kDotVectors, kSums>(from, b, columns, key, to + key);
        for (; key < b.keys; key += kTileLanes)
          score_tile<kRows, kTileLanes / kLanes, kSums>(from, b, columns, key,
                                                        to + key);
      });
}

/// Numbers in (0, 1) by token: any run of tokens has them spread evenly (bits
/// reversed).
struct Spread {
  float at[kPageTokens];
};
constexpr Spread make_spread() {
  Spread spread{};
  for (int i = 0; i < kPageTokens; ++i) {
    int reversed = 0;
    for (int bit = 0; bit < 6; ++bit) reversed |= (i >> bit & 1) << (5 - bit);
    spread.at[i] = ((float)reversed + 0.5f) / kPageTokens;
  }
  return spread;
}
alignas(64) constexpr Spread kSpread = make_spread();

/// One row's weights p [kBlockKeys] times the group's scales, rounded; `sum` gets sum p
/// bias. Masked tokens get 0 whatever their scales are.
template <bool kAffine>
OPTIQ_INLINE void round_weights(const float* p, const std::byte* scales,
                                const std::byte* biases, int middle,
                                const RoundedRows& to) {
  constexpr int kVectors = kPageTokens / kLanes;
  Vec x[kVectors];
  Vec biased{};
  VecInt largest{};
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    const Vec weight = load(p + i * kLanes);
    const VecInt seen = weight > 0.0f;
    x[i] = (Vec)((VecInt)(weight * load_f16((const Half*)scales + i * kLanes)) & seen);
    largest = (VecInt)x[i] > largest ? (VecInt)x[i] : largest;
    if constexpr (kAffine) {
      const Vec bias = load_f16((const Half*)biases + i * kLanes);
      biased += (Vec)((VecInt)(weight * bias) & seen);
    }
  }
  const std::int32_t bits = reduce_max(largest);
  float most;
  __builtin_memcpy(&most, &bits, 4);
  const bool usable = most > kSmallestRounded && most < kLargestRounded;
  const float inverse = usable ? 127.0f / most : 0.0f;
  const VecInt kept = VecInt{} - (int)usable;  // what is not finite has no code
  VecInt sum{};
#pragma GCC unroll 16
  for (int i = 0; i < kVectors; ++i) {
    const VecInt code =
        to_int(multiply_add(x[i], broadcast(inverse), load(kSpread.at + i * kLanes))) &
        kept;
    sum += code;
    store_low_bytes(to.codes + i * kLanes, code);
  }
  *to.start = -middle * reduce_add(sum);
  *to.step = usable ? most * (1.0f / 127) : 0.0f;
  *to.sum = kAffine ? reduce_add(biased) : 0.0f;
  if (!(most < kLargestRounded)) *to.sum = __builtin_nanf("");
}

/// All rows' weights for one group.
OPTIQ_INLINE void round_weights(const float* weights, int rows, const CodedBlock& b,
                                int group, const RoundedRows& to) {
  const std::byte* scales = b.head + b.side.scales + group * kPageTokens * 2;
  const std::byte* biases = b.head + b.side.biases + group * kPageTokens * 2;
  const int middle = code_bytes(b.side.format).middle;
  for (int r = 0; r < rows; ++r) {
    const float* p = weights + r * kBlockKeys;
    if (b.side.format.kind == KvKind::kAffine)
      round_weights<true>(p, scales, biases, middle, from_row(to, r));
    else
      round_weights<false>(p, scales, biases, middle, from_row(to, r));
  }
}

template <int kRows, int kVectors, int kSums>
OPTIQ_INLINE void sum_tile(const RoundedRows& w, int quads, const std::uint8_t* columns,
                           const float* factor, float* sums, std::int64_t stride) {
  VecInt sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = w.start[r] - (VecInt){};
  dot_columns<kRows, kVectors, kSums>(
      w.codes, w.stride, columns, kPageTokens / kTileDepth * kTileBytes, quads, sum);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = sums + r * stride + v * kLanes;
      const Vec kept =
          multiply_add(load(to), broadcast(factor[r]), broadcast(w.sum[r]));
      store(to, multiply_add(to_float(sum[r][v]), broadcast(w.step[r]), kept));
    }
}

/// sums [rows, stride] = factor sums + weights [rows, kBlockKeys] values. `w` is room
/// for the rounded weights of one group.
static void sum_codes(const float* weights, int rows, const CodedBlock& b,
                      const std::uint8_t* columns, const float* factor, float* sums,
                      std::int64_t stride, const RoundedRows& w) {
  constexpr int kStep = kDotVectors * kLanes;
  const int quads = round_up(b.keys, kTileDepth) / 4, padded = padded_dim(b.dim);
  for (int g = 0; g < b.side.groups; ++g) {
    round_weights(weights, rows, b, g, w);
    const int begin = g * b.side.group_values;
    const int end = g + 1 < b.side.groups ? begin + b.side.group_values : padded;
    for_row_tiles(
        b.side.format,
        rows, [&]<int kRows, int kSums>(int row) __attribute__((always_inline)) {
          const RoundedRows from = from_row(w, row);
          const auto at = [&](int channel) __attribute__((always_inline)) {
            return columns +
                   channel / kTileLanes * (kPageTokens / kTileDepth) * kTileBytes +
                   channel % kTileLanes * 4;
          };
          float* to = sums + row * stride;
          int channel = begin;
          for (; channel + kStep <= end; channel += kStep)
            sum_tile<kRows, kDotVectors, kSums>(from, quads, at(channel), factor + row,
                                                to + channel, stride);
          for (; channel < end; channel += kTileLanes)
            sum_tile<kRows, kTileLanes / kLanes, kSums>(
                from, quads, at(channel), factor + row, to + channel, stride);
        });
  }
}

// Bytes of a column's depth `j` in each lane, as floats without their middle.
OPTIQ_INLINE Vec column_values(const std::uint8_t* column, int j, CodeBytes bytes) {
  const VecInt quad = (VecInt)load_bytes(column);
  VecInt code = quad << (24 - 8 * j);
  code = bytes.is_signed ? code >> 24 : (VecInt)((DWords)code >> 24);
  return to_float(code - bytes.middle);
}

/// Decoded keys, transposed: panel [kBlockKeys / kPanelKeys][padded][kPanelKeys].
static void decode_keys(const CodedBlock& b, const std::uint8_t* columns,
                        float* panel) {
  const CodeBytes bytes = code_bytes(b.side.format);
  const bool affine = b.side.format.kind == KvKind::kAffine;
  const int padded = padded_dim(b.dim);
  for (int key = 0; key < b.keys; key += kLanes)
    for (int d = 0; d < b.dim; ++d) {
      const int at = d / b.side.group_values * kPageTokens + key;
      const Vec scale = load_f16((const Half*)(b.head + b.side.scales) + at);
      const Vec value =
          column_values(columns + key / kTileLanes * key_tiles(b) * kTileBytes +
                            d / 4 * 64 + key % kTileLanes * 4,
                        d % 4, bytes);
      Vec bias{};
      if (affine) bias = load_f16((const Half*)(b.head + b.side.biases) + at);
      store(panel + (key / kPanelKeys * padded + d) * kPanelKeys + key % kPanelKeys,
            multiply_add(value, scale, bias));
    }
}

/// Decoded values [keys, padded].
static void decode_values(const CodedBlock& b, const std::uint8_t* columns,
                          float* values) {
  const CodeBytes bytes = code_bytes(b.side.format);
  const bool affine = b.side.format.kind == KvKind::kAffine;
  const int padded = padded_dim(b.dim);
  for (int channel = 0; channel < padded; channel += kLanes) {
    int group = channel / b.side.group_values;
    group = group < b.side.groups ? group : b.side.groups - 1;
    float scale[kPageTokens], bias[kPageTokens] = {};
    for (int i = 0; i < kPageTokens; i += kLanes) {
      const int at = group * kPageTokens + i;
      store(scale + i, load_f16((const Half*)(b.head + b.side.scales) + at));
      if (affine) store(bias + i, load_f16((const Half*)(b.head + b.side.biases) + at));
    }
    const std::uint8_t* tile =
        columns + channel / kTileLanes * (kPageTokens / kTileDepth) * kTileBytes +
        channel % kTileLanes * 4;
    for (int key = 0; key < b.keys; ++key)
      store(values + key * padded + channel,
            multiply_add(column_values(tile + key / 4 * 64, key % 4, bytes),
                         broadcast(scale[key]), broadcast(bias[key])));
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
