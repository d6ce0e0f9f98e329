// y = x W^T for many rows of x (prefill), x rounded to int8, by tiles of AMX.
//
// One instruction multiplies 16 rows of W with 16 rows of x over 64 codes: 32768
// operations in 16 cycles. But its whole numbers have to become floats group by group
// (linear.h): 16 vectors of products, for each a conversion, a multiplication and two
// multiply-adds on two ports, 32 cycles. So the float step is the limit: 1024
// operations a cycle with groups of 64, twice that with 128, half with 32. (AVX-512
// alone: 256 without a float step, 205 with it.) Beside it a step loads 16 lines each
// of W, of x and of products and stores 16, which two loads and one store a cycle
// allow. What is reached of it: docs/decisions/amx.md.
//
// Rows of W keep their order of bytes: W is the tile of rows, x the tile of quads,
// brought into that form once per call. A product goes to one of kRing small squares in
// the first level cache and is folded kAhead steps after it was asked for.
//
// A part of kPartBytes codes of each row is taken at a time: that of kTogether tiles of
// W stays in the first level cache while all of x goes by, that of x in the second
// level cache while all tiles of the panel go by.
#include "optiq/kernels/linear/panel_scales.h"
#include "optiq/kernels/linear/simd_tiles.h"
#include "optiq/kernels/linear/unpack.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kSide = 16;  // rows of W and rows of x in a tile
constexpr int kPanelTiles = 8, kTogether = 2;
constexpr int kPanelRows = kPanelTiles * kSide;
constexpr int kPartBytes = 512;
constexpr int kRing = 4, kAhead = 2;
constexpr int kSquare = kSide * kSide;
static_assert(kSide == kLanes && kAhead < kRing);

// What int8_many's scratch holds. A square of sums is [row of W][row of x].
struct Panel {
  std::uint8_t* codes;  // [kPanelTiles][groups][kSide][group_size]
  float* scales;        // [kPanelTiles][groups][scale, bias][kSide]
  float* chains;        // [kPanelTiles][tiles of x][kSquare], of the chain under way
  float* totals;        // [kPanelTiles][tiles of x][kSquare], of the chains before it
};

// Consecutive groups of one chain.
struct Part {
  int first, groups;  // by chain_position
  bool opens, closes;
  bool opens_total;
};

OPTIQ_INLINE int tiles_of_x(const InputRows& rows) {
  return (rows.M + kSide - 1) / kSide;
}

OPTIQ_INLINE std::int64_t code_bytes(const InputRows& rows) {
  return (std::int64_t)rows.groups * rows.group_size;
}

OPTIQ_INLINE Panel panel_in(void* scratch, const InputRows& rows) {
  const std::int64_t squares = (std::int64_t)kPanelTiles * tiles_of_x(rows) * kSquare;
  Panel p;
  p.codes = (std::uint8_t*)scratch;
  p.scales = (float*)(p.codes + code_bytes(rows) * kPanelRows);
  p.chains = p.scales + (std::int64_t)rows.groups * 2 * kPanelRows;
  p.totals = p.chains + squares;
  return p;
}

// The codes of kSide rows from n0 on; rows from `valid` on stay as they are, nobody
// reads their sums.
template <int kBits>
void fill_codes(const MatrixView& w, int n0, int valid, int groups, std::uint8_t* to) {
  constexpr int kChunk = 32 * kBlocks;
  const int group_size = w.spec.group_size;
  const std::int64_t row_bytes = w.row_bytes();
  if (valid > kSide) valid = kSide;
  const __m512i low_blocks = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high_blocks = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int k = 0; k < w.K; k += kChunk) {
    const int codes = w.K - k < kChunk ? w.K - k : kChunk;
    std::uint8_t* at[kBlocks];
    for (int block = 0; block < kBlocks; ++block) {
      const int code = k + 32 * block, g = code / group_size;
      at[block] = to + (std::int64_t)chain_position(g, groups) * kSide * group_size +
                  code % group_size;
    }
    for (int n = 0; n < valid; ++n) {
      const std::uint8_t* from = (const std::uint8_t*)w.weight + (n0 + n) * row_bytes +
                                 (std::int64_t)k * kBits / 8;
      std::uint8_t padded[kChunkBytes<kBits>];
      if (codes < kChunk) {
        __builtin_memset(padded, 0, sizeof padded);
        __builtin_memcpy(padded, from, (std::size_t)(codes * kBits / 8));
        from = padded;
      }
      const Halves h = unpack_for_dot<kBits>(from);
      const __m512i first = (__m512i)h.first, second = (__m512i)h.second;
      const __m512i low = _mm512_permutex2var_epi64(first, low_blocks, second);
      const __m512i high = _mm512_permutex2var_epi64(first, high_blocks, second);
      const __m256i blocks[kBlocks] = {
          _mm512_castsi512_si256(low), _mm512_extracti64x4_epi64(low, 1),
          _mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1)};
      for (int block = 0; block < kBlocks; ++block)
        if (32 * block < codes)
          _mm256_storeu_si256((__m256i*)(at[block] + n * group_size), blocks[block]);
    }
  }
}

// Tile registers: 0 and 1 products, 2 and 3 of W, 4 and 5 of x, taken in turn; 6 and 7
// for the second half of a group of 128.
void configure(int group_size) {
  const int codes = group_size < 64 ? group_size : 64;
  TileShapes shapes;
  for (int t = 0; t < kTiles; ++t) {
    const bool of_w = t == 2 || t == 3 || t == 6, of_x = t == 4 || t == 5 || t == 7;
    shapes.rows[t] = (std::uint8_t)(of_x ? codes / 4 : kSide);
    shapes.row_bytes[t] = (std::uint16_t)(of_w ? codes : 4 * kSide);
  }
  use_tiles(shapes);
}

// Multiplies one group into set kSet and stores the product of the other set, the one
// before: stored right after its own multiplication it would hold up the next.
template <int kGroup, int kSet>
OPTIQ_INLINE void multiply_group(const std::uint8_t* w, const std::int8_t* x,
                                 std::int32_t* before) {
  zero_tile<kSet>();
  load_tile<2 + kSet>(w, kGroup);
  load_tile<4 + kSet>(x, 4 * kSide);
  store_tile<1 - kSet>(before, 4 * kSide);
  multiply_tiles<kSet, 2 + kSet, 4 + kSet>();
  if constexpr (kGroup > 64) {
    load_tile<6>(w + 64, kGroup);
    load_tile<7>(x + 64 * kSide, 4 * kSide);
    multiply_tiles<kSet, 6, 7>();
  }
}

// Products of whole numbers, asked for ahead of their use: x tile by tile, in it W tile
// by tile, in it group by group.
struct Products {
  const std::uint8_t* w;  // of the next one
  const std::int8_t* x;
  int groups_left, w_left, x_left;  // x_left 0: all are asked for
  unsigned asked;
};

// Adds one part's share to the sums of kTogether tiles of W or fewer, from `tile` on.
template <int kGroup>
void multiply_part(const Panel panel, const InputRows& rows, int tile, int tiles,
                   const Part part) {
  constexpr std::int64_t kStep = kSide * kGroup;  // bytes from group to group
  alignas(4096) std::int32_t ring[kRing][kSquare];
  const int x_tiles = tiles_of_x(rows);
  const std::int64_t groups = rows.groups, at = part.first;
  const std::int64_t w_tile = groups * kStep, x_tile = rows.stride * kSide;
  const std::uint8_t* first_w = panel.codes + tile * w_tile + at * kStep;
  Products next = {first_w, rows.codes + at * kStep, part.groups, tiles, x_tiles, 0};
  const auto ask = [&]() __attribute__((always_inline)) {
    // The first time there is none before: a square that nobody reads.
    std::int32_t* before = ring[(next.asked - 1) % kRing];
    const bool odd = next.asked % 2;
    if (next.x_left == 0)
      return odd ? store_tile<0>(before, 4 * kSide) : store_tile<1>(before, 4 * kSide);
    if (odd)
      multiply_group<kGroup, 1>(next.w, next.x, before);
    else
      multiply_group<kGroup, 0>(next.w, next.x, before);
    ++next.asked;
    next.w += kStep;
    next.x += kStep;
    if (--next.groups_left) return;
    next.groups_left = part.groups;
    next.w += w_tile - part.groups * kStep;
    next.x -= part.groups * kStep;
    if (--next.w_left) return;
    next.w_left = tiles;
    next.w = first_w;
    next.x += x_tile;
    --next.x_left;
  };
  for (int i = 0; i < kAhead; ++i) ask();
  unsigned used = 0;
  for (int m = 0; m < x_tiles; ++m) {
    for (int n = tile; n < tile + tiles; ++n) {
      const std::int64_t square = ((std::int64_t)n * x_tiles + m) * kSquare;
      float* chain = panel.chains + square;
      Vec sum[kSide];
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i)
        sum[i] = part.opens ? Vec{} : load(chain + i * kSide);
      const float* scales = panel.scales + (n * groups + at) * 2 * kSide;
      const float* x_steps = rows.steps + (m * groups + at) * kSide;
      const float* x_sums = rows.sums + (m * groups + at) * kSide;
      for (int g = part.groups; g > 0; --g) {
        ask();
        const float* whole = (const float*)ring[used++ % kRing];
        const Vec step = load(x_steps), x_sum = load(x_sums);
#pragma GCC unroll 16
        for (int i = 0; i < kSide; ++i) {
          const Vec dot = to_float((VecInt)load(whole + i * kSide));
          sum[i] = multiply_add(dot, step * scales[i], sum[i]);
          sum[i] = multiply_add(broadcast(scales[kSide + i]), x_sum, sum[i]);
        }
        scales += 2 * kSide;
        x_steps += kSide;
        x_sums += kSide;
      }
      float* total = panel.totals + square;
      float* to = part.closes ? total : chain;
      const bool add = part.closes && !part.opens_total;
#pragma GCC unroll 16
      for (int i = 0; i < kSide; ++i)
        store(to + i * kSide, add ? load(total + i * kSide) + sum[i] : sum[i]);
    }
  }
}

void store_panel(const Panel& panel, const InputRows& rows, int at, int valid,
                 const Output& out) {
  const int x_tiles = tiles_of_x(rows);
  for (int m = 0; m < x_tiles; ++m)
    for (int n = 0; n * kSide < valid; ++n) {
      const float* square = panel.totals + ((std::int64_t)n * x_tiles + m) * kSquare;
      VecInt sums[kSide];
      for (int i = 0; i < kSide; ++i) sums[i] = (VecInt)load(square + i * kSide);
      transpose(sums);
      const int left = valid - n * kSide;
      for (int i = 0; i < kSide && m * kSide + i < rows.M; ++i) {
        float row[kSide];
        store(row, (Vec)sums[i]);
        store_sums<kSide>(row, m * kSide + i, at + n * kSide,
                          left < kSide ? left : kSide, out);
      }
    }
}

template <int kBits>
void many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
          const Output& out, void* scratch) {
  const Panel panel = panel_in(scratch, rows);
  const int groups = rows.groups, per_chain = groups / kChains;
  const int most = kPartBytes / rows.group_size;
  configure(rows.group_size);
  for (int n0 = n_begin; n0 < n_end; n0 += kPanelRows) {
    const int valid = n_end - n0 < kPanelRows ? n_end - n0 : kPanelRows;
    const int tiles = (valid + kSide - 1) / kSide;
    for (int t = 0; t < tiles; ++t) {
      const int n = n0 + t * kSide, left = valid - t * kSide;
      float* scales = panel.scales + (std::int64_t)t * groups * 2 * kSide;
      fill_codes<kBits>(w, n, left, groups, panel.codes + t * code_bytes(rows) * kSide);
      fill_scales(w, w.scales, n, left, groups, scales, 2 * kSide);
      fill_scales(w, w.biases, n, left, groups, scales + kSide, 2 * kSide);
    }
    for (int chain = 0; chain < kChains; ++chain) {
      // The next panel's codes come while this one is multiplied.
      const std::int64_t share = w.row_bytes() * kPanelRows / kChains;
      if (n0 + kPanelRows < n_end)
        prefetch_far(
            (const char*)w.weight + (n0 + kPanelRows) * w.row_bytes() + chain * share,
            share);
      for (int begin = 0; begin < per_chain; begin += most) {
        const int end = begin + most < per_chain ? begin + most : per_chain;
        const Part part = {chain * per_chain + begin, end - begin, begin == 0,
                           end == per_chain, chain == 0};
        for (int t = 0; t < tiles; t += kTogether) {
          const int n = tiles - t < kTogether ? tiles - t : kTogether;
          if (rows.group_size == 32)
            multiply_part<32>(panel, rows, t, n, part);
          else if (rows.group_size == 64)
            multiply_part<64>(panel, rows, t, n, part);
          else
            multiply_part<128>(panel, rows, t, n, part);
        }
      }
    }
    store_panel(panel, rows, n0 - n_begin, valid, out);
  }
  release_tiles();
}

void interleave(const std::int8_t* codes, std::int64_t row_bytes, std::int8_t* to) {
  for (std::int64_t k = 0; k < row_bytes; k += 64, to += 64 * kSide) {
    VecInt rows[kSide];
    for (int i = 0; i < kSide; ++i)
      rows[i] = (VecInt)load((const float*)(codes + i * row_bytes + k));
    transpose(rows);
    for (int i = 0; i < kSide; ++i) store((float*)to + i * kSide, (Vec)rows[i]);
  }
}

}  // namespace

void int8_many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
               const Output& out, void* scratch) {
  switch (w.spec.bits) {
    case 2:
      return many<2>(w, rows, n_begin, n_end, out, scratch);
    case 3:
      return many<3>(w, rows, n_begin, n_end, out, scratch);
    case 4:
      return many<4>(w, rows, n_begin, n_end, out, scratch);
    case 5:
      return many<5>(w, rows, n_begin, n_end, out, scratch);
    case 6:
      return many<6>(w, rows, n_begin, n_end, out, scratch);
    case 8:
      return many<8>(w, rows, n_begin, n_end, out, scratch);
  }
}

std::int64_t int8_many_scratch(const InputRows& rows) {
  const std::int64_t squares = (std::int64_t)kPanelTiles * tiles_of_x(rows) * kSquare;
  return kPanelRows * (code_bytes(rows) + 8 * (std::int64_t)rows.groups) + 8 * squares;
}

LinearKernels linear_kernels() {
  LinearKernels k = avx512::linear_kernels();
  k.int8_many = int8_many;
  k.int8_many_scratch = int8_many_scratch;
  k.int8_many_rows = kSide;
  k.interleave = interleave;
  return k;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
