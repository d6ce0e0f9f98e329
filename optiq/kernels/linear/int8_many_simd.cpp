// y = x W^T for many rows of x (prefill), x rounded to int8. Bound by products.
//
// Rows of W are unpacked once per call to a panel of bytes: [group][4 codes][kVectors]
// [lane = row of W], groups in the order of the eight chains (linear.h), in W as in x.
// One chain's part of the panel stays in the first level cache while all of x goes by.
// A tile of kM rows of x by kVectors vectors of W's rows keeps its whole-number sums in
// registers: four bytes of x are broadcast against each vector. At the end of a group
// two multiply-adds bring scale and bias in.
#include "optiq/kernels/linear/panel_scales.h"
#include "optiq/kernels/linear/unpack.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kVectors = 2;
constexpr int kPanelRows = kVectors * kLanes;
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
#elif defined(__AVX2__)
constexpr int kTileRows = 5;
#else
constexpr int kTileRows = 6;
#endif

// What int8_many's scratch holds.
struct Panel {
  std::uint8_t* codes;          // [groups][group_size / 4][kVectors][4 kLanes]
  float* scales;                // [groups][kPanelRows]
  float* biases;                // [groups][kPanelRows]
  float (*totals)[kPanelRows];  // [M]
};

OPTIQ_INLINE Panel panel_in(void* scratch, const InputRows& rows) {
  Panel p;
  p.codes = (std::uint8_t*)scratch;
  p.scales = (float*)(p.codes + rows.stride * kPanelRows);
  p.biases = p.scales + (std::int64_t)rows.groups * kPanelRows;
  p.totals = (float(*)[kPanelRows])(p.biases + (std::int64_t)rows.groups * kPanelRows);
  return p;
}

template <int kBits>
void fill_codes(const MatrixView& w, int n0, int valid, int groups,
                const Panel& panel) {
  constexpr int kChunk = 32 * kBlocks;
  const int group_size = w.spec.group_size, quads = group_size / 4;
  const std::int64_t row_bytes = w.row_bytes();
  for (int v = 0; v < kVectors; ++v)
    for (int k = 0; k < w.K; k += kChunk) {
      const int codes = w.K - k < kChunk ? w.K - k : kChunk;
      VecInt first[kLanes], second[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        const int n = v * kLanes + r;
        if (n >= valid) {
          first[r] = second[r] = VecInt{};
          continue;
        }
        const std::uint8_t* from = (const std::uint8_t*)w.weight +
                                   (n0 + n) * row_bytes + (std::int64_t)k * kBits / 8;
        std::uint8_t padded[kChunkBytes<kBits>];
        if (codes < kChunk) {
          __builtin_memset(padded, 0, sizeof padded);
          __builtin_memcpy(padded, from, (std::size_t)(codes * kBits / 8));
          from = padded;
        }
        const Halves h = unpack_for_dot<kBits>(from);
        first[r] = (VecInt)h.first;
        second[r] = (VecInt)h.second;
      }
      transpose(first);
      transpose(second);
      for (int block = 0; block < codes / 32; ++block) {
        const int at = k + 32 * block, g = at / group_size;
        std::uint8_t* to =
            panel.codes +
            ((std::int64_t)chain_position(g, groups) * quads + at % group_size / 4) *
                (4 * kPanelRows);
        for (int i = 0; i < 4; ++i) {
          store_bytes(to + (i * kVectors + v) * (4 * kLanes),
                      (Bytes)first[4 * block + i]);
          store_bytes(to + ((4 + i) * kVectors + v) * (4 * kLanes),
                      (Bytes)second[4 * block + i]);
        }
      }
    }
}

// Adds the sums of one chain for kM rows of x, from `m` on, to total.
template <int kBits, int kM>
void multiply_tile(const Panel& panel, const InputRows& rows, int chain, int m,
                   float (*total)[kPanelRows]) {
  const int quads = rows.group_size / 4, per_chain = rows.groups / kChains;
  const int first = chain * per_chain;
  const std::int8_t* x[kM];
  for (int i = 0; i < kM; ++i)
    x[i] = rows.codes + (m + i) * rows.stride + (std::int64_t)first * rows.group_size;
  const std::uint8_t* w =
      panel.codes + (std::int64_t)first * rows.group_size * kPanelRows;
  const float* scales = panel.scales + (std::int64_t)first * kPanelRows;
  const float* biases = panel.biases + (std::int64_t)first * kPanelRows;
  Vec sum[kM][kVectors] = {};
  for (int step = 0; step < per_chain; ++step) {
    const std::int64_t offset = (std::int64_t)step * rows.group_size;
    VecInt whole[kM][kVectors] = {};
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
    if constexpr (kBits < 8) {
      // Sums of 16 bits, emptied before they can pass 2^15: each product of a pair is
      // at most 2 * 127 * (2^bits - 1).
      constexpr int kBatch = kBits == 6 ? 2 : kBits == 5 ? 4 : 8;
      for (int q = 0; q < quads; q += kBatch) {
        __m256i pairs[kM][kVectors] = {};
#pragma GCC unroll 8
        for (int b = 0; b < kBatch; ++b) {
          __m256i wv[kVectors];
          for (int v = 0; v < kVectors; ++v)
            wv[v] = (__m256i)load_bytes(w + ((q + b) * kVectors + v) * 4 * kLanes);
          for (int i = 0; i < kM; ++i) {
            const __m256i xq = (__m256i)broadcast_quad(x[i] + offset + 4 * (q + b));
            for (int v = 0; v < kVectors; ++v) {
              pairs[i][v] =
                  _mm256_add_epi16(pairs[i][v], _mm256_maddubs_epi16(wv[v], xq));
              // The compiler would add in another order, and run out of registers.
              __asm__("" : "+x"(pairs[i][v]));
            }
          }
        }
        for (int i = 0; i < kM; ++i)
          for (int v = 0; v < kVectors; ++v)
            whole[i][v] += (VecInt)_mm256_madd_epi16(pairs[i][v], _mm256_set1_epi16(1));
      }
    } else
#endif
    {
#pragma GCC unroll 4
      for (int q = 0; q < quads; ++q) {
        Bytes wv[kVectors];
        for (int v = 0; v < kVectors; ++v)
          wv[v] = load_bytes(w + (q * kVectors + v) * 4 * kLanes);
        for (int i = 0; i < kM; ++i) {
          const Bytes xq = broadcast_quad(x[i] + offset + 4 * q);
          for (int v = 0; v < kVectors; ++v)
            whole[i][v] = dot<kBits>(whole[i][v], wv[v], xq);
        }
      }
    }
    w += quads * 4 * kPanelRows;
    for (int i = 0; i < kM; ++i) {
      const std::int64_t at = (std::int64_t)(m + i) * rows.groups + first + step;
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kSignedCodes<kBits>) whole[i][v] += 128 * rows.whole_sums[at];
        const Vec scale = load(scales + v * kLanes) * rows.steps[at];
        sum[i][v] = multiply_add(to_float(whole[i][v]), scale, sum[i][v]);
        sum[i][v] = multiply_add(load(biases + v * kLanes), broadcast(rows.sums[at]),
                                 sum[i][v]);
      }
    }
    scales += kPanelRows;
    biases += kPanelRows;
  }
  for (int i = 0; i < kM; ++i)
    for (int v = 0; v < kVectors; ++v) {
      float* t = total[i] + v * kLanes;
      store(t, chain == 0 ? sum[i][v] : load(t) + sum[i][v]);
    }
}

template <int kBits, int kM>
OPTIQ_INLINE void multiply_tile_of(int n, const Panel& panel, const InputRows& rows,
                                   int chain, int m) {
  if (n == kM)
    multiply_tile<kBits, kM>(panel, rows, chain, m, panel.totals + m);
  else if constexpr (kM > 1)
    multiply_tile_of<kBits, kM - 1>(n, panel, rows, chain, m);
}

template <int kBits>
void many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
          const Output& out, void* scratch) {
  const Panel panel = panel_in(scratch, rows);
  for (int n0 = n_begin; n0 < n_end; n0 += kPanelRows) {
    const int valid = n_end - n0 < kPanelRows ? n_end - n0 : kPanelRows;
    const int at = n0 - n_begin;
    fill_codes<kBits>(w, n0, valid, rows.groups, panel);
    for (int n = 0; n < kPanelRows; n += kLanes) {
      fill_scales(w, w.scales, n0 + n, valid - n, rows.groups, panel.scales + n,
                  kPanelRows);
      fill_scales(w, w.biases, n0 + n, valid - n, rows.groups, panel.biases + n,
                  kPanelRows);
    }
    for (int chain = 0; chain < kChains; ++chain) {
      // The next panel's codes come while this one is multiplied.
      const std::int64_t share = w.row_bytes() * kPanelRows / kChains;
      prefetch_far(
          (const char*)w.weight + (n0 + kPanelRows) * w.row_bytes() + chain * share,
          share);
      // Tiles of about equal height.
      int tiles = (rows.M + kTileRows - 1) / kTileRows;
      for (int m = 0; m < rows.M; --tiles) {
        const int n = (rows.M - m + tiles - 1) / tiles;
        multiply_tile_of<kBits, kTileRows>(n, panel, rows, chain, m);
        m += n;
      }
    }
    for (int m = 0; m < rows.M; ++m)
      store_sums<kPanelRows>(panel.totals[m], m, at, valid, out);
  }
}

}  // namespace

std::int64_t int8_many_scratch(const InputRows& rows) {
  return kPanelRows * (rows.stride + 8 * (std::int64_t)rows.groups + 4LL * rows.M);
}

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

}  // namespace optiq::kernels::OPTIQ_SIMD
