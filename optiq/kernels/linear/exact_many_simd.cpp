// y = x W^T for many rows of x, in float32. Bound by multiply-adds.
//
// W goes in blocks of kPanelRows rows by 1024 columns to a panel of floats in the
// second level cache: [chain][column / 16][row of W]. One chain of the definition
// (linear.h) stays in the first level cache while all of x goes by in tiles of
// kTileRows rows, whose sums are in registers and join the totals at the chain's end.
// Several panels share a pass over x, for x itself may come from memory.
// Source: the loop order of Goto and van de Geijn 2008, "Anatomy of high-performance
// matrix multiplication", with the panel of W innermost.
#include "optiq/kernels/linear/exact_weights.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kVectors = 2;
constexpr int kPanelRows = kVectors * kLanes;
constexpr int kTileRows = kLanes == 8 ? 6 : 12;
constexpr int kMostPanels = 64 / kPanelRows;  // that share one pass over x

// A chain's floats in the panel; not a power of two, so that the 16 chains written
// together fall into different sets of the cache.
OPTIQ_INLINE std::int64_t chain_size(int columns) {
  return columns / kExactChains * kPanelRows + 16;
}

// Columns [begin, begin + columns) of W's rows [n0, n0 + valid); zeros beyond K.
template <class Row>
void fill_panel(const MatrixView& w, int n0, int valid, std::int64_t begin, int columns,
                float* panel) {
  const std::int64_t chain = chain_size(columns);
  for (int v = 0; v < kVectors; ++v) {
    Row row[kLanes];
    const int first = v * kLanes;
    for (int r = 0; r < kLanes; ++r)
      row[r] = Row::of(w, n0 + (first + r < valid ? first + r : 0));
    for (int c = 0; c < columns; c += kChunk) {
      alignas(64) float piece[kLanes][kChunk];
      const std::int64_t k = begin + c;
      for (int r = 0; r < kLanes; ++r) {
        Vec wv[8];
        if (k + kChunk <= w.K)
          row[r].chunk(k, wv);
        else if (k < w.K)
          row[r].rest(k, w.K, wv);
        else
          for (Vec& value : wv) value = Vec{};
        for (int i = 0; i < 8; ++i) store(piece[r] + i * kLanes, wv[i]);
      }
      const int n = columns - c < kChunk ? columns - c : kChunk;
      for (int at = 0; at < n; at += kLanes) {
        VecInt part[kLanes];
        for (int r = 0; r < kLanes; ++r) part[r] = (VecInt)load(piece[r] + at);
        transpose(part);
        float* to = panel + (at % kExactChains) * chain +
                    (c + at) / kExactChains * kPanelRows + first;
        for (int j = 0; j < kLanes; ++j) store(to + j * chain, (Vec)part[j]);
      }
    }
  }
}

// Adds the sums of one chain for kM rows of x to total.
template <int kM>
OPTIQ_INLINE void multiply_tile(const float* w, const float* const* x, int steps,
                                float (*total)[kPanelRows]) {
  Vec sum[kM][kVectors] = {};
  for (int step = 0; step < steps; ++step) {
    Vec wv[kVectors];
    for (int v = 0; v < kVectors; ++v) wv[v] = load(w + v * kLanes);
    w += kPanelRows;
    for (int i = 0; i < kM; ++i) {
      const Vec xv = broadcast(x[i][step]);
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(wv[v], xv, sum[i][v]);
    }
  }
  for (int i = 0; i < kM; ++i)
    for (int v = 0; v < kVectors; ++v) {
      float* t = total[i] + v * kLanes;
      store(t, load(t) + sum[i][v]);
    }
}

// Panels side by side, and the sums of their rows.
struct Panels {
  int n;
  float* data;
  std::int64_t size;            // of each panel
  float (*totals)[kPanelRows];  // [n][M]
};

// Rows of x from m on, as many tiles of kM as there are; gives the row after them.
template <int kM>
int multiply_tiles(const Panels& panels, const InputRows& rows, int m, int chain,
                   std::int64_t begin, int columns) {
  const int steps = columns / kExactChains;
  for (; m + kM <= rows.M; m += kM) {
    const float* x[kM];
    for (int i = 0; i < kM; ++i)
      x[i] = rows.values + (m + i) * rows.stride + begin + chain * steps;
    for (int p = 0; p < panels.n; ++p)
      multiply_tile<kM>(panels.data + p * panels.size + chain * chain_size(columns), x,
                        steps, panels.totals + (std::int64_t)p * rows.M + m);
  }
  return m;
}

// One chain's share of `n` rows of W, columns from `begin` on.
template <class Row>
OPTIQ_INLINE void prefetch_share(const MatrixView& w, int n0, int n, std::int64_t begin,
                                 int chain) {
  const int share = (n + kExactChains - 1) / kExactChains;
  const std::int64_t end = begin + kExactBlock < w.K ? begin + kExactBlock : w.K;
  for (int r = chain * share; r < (chain + 1) * share && n0 + r < w.N; ++r) {
    const Row row = Row::of(w, n0 + r);
    prefetch_far(row.at(begin), row.at(end) - row.at(begin));
  }
}

template <class Row>
void many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
          const Output& out, float* scratch) {
  constexpr int kTogether = kMostPanels * kPanelRows;
  Panels panels;
  panels.totals = (float(*)[kPanelRows])scratch;
  panels.data = scratch + (std::int64_t)rows.M * kTogether;
  panels.size = kExactChains * chain_size(kExactBlock);
  for (int n0 = n_begin; n0 < n_end; n0 += kTogether) {
    const int valid = n_end - n0 < kTogether ? n_end - n0 : kTogether;
    const auto valid_in = [&](int p) {
      const int left = valid - p * kPanelRows;
      return left < kPanelRows ? left : kPanelRows;
    };
    panels.n = (valid + kPanelRows - 1) / kPanelRows;
    __builtin_memset(panels.totals, 0,
                     sizeof(float) * (std::size_t)rows.M * kPanelRows * panels.n);
    for (std::int64_t begin = 0; begin < rows.stride; begin += kExactBlock) {
      const int columns =
          (int)(rows.stride - begin < kExactBlock ? rows.stride - begin : kExactBlock);
      for (int p = 0; p < panels.n; ++p)
        fill_panel<Row>(w, n0 + p * kPanelRows, valid_in(p), begin, columns,
                        panels.data + p * panels.size);
      const bool last = begin + kExactBlock >= w.K;
      for (int chain = 0; chain < kExactChains; ++chain) {
        // What the next panels are made of comes meanwhile.
        prefetch_share<Row>(w, last ? n0 + kTogether : n0, kTogether,
                            last ? 0 : begin + kExactBlock, chain);
        int m = multiply_tiles<kTileRows>(panels, rows, 0, chain, begin, columns);
        if constexpr (kTileRows > 8)
          m = multiply_tiles<8>(panels, rows, m, chain, begin, columns);
        m = multiply_tiles<4>(panels, rows, m, chain, begin, columns);
        m = multiply_tiles<2>(panels, rows, m, chain, begin, columns);
        multiply_tiles<1>(panels, rows, m, chain, begin, columns);
      }
    }
    for (int p = 0; p < panels.n; ++p)
      for (int m = 0; m < rows.M; ++m)
        store_sums<kPanelRows>(panels.totals[(std::int64_t)p * rows.M + m], m,
                               n0 + p * kPanelRows - n_begin, valid_in(p), out);
  }
}

}  // namespace

std::int64_t exact_many_scratch(const InputRows& rows) {
  return 4 * kMostPanels *
         (kPanelRows * (std::int64_t)rows.M + kExactChains * chain_size(kExactBlock));
}

void exact_many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
                const Output& out, void* scratch) {
  with_row_type(w, [&](auto* row) {
    many<RowOf<decltype(row)>>(w, rows, n_begin, n_end, out, (float*)scratch);
  });
}

}  // namespace optiq::kernels::OPTIQ_SIMD
