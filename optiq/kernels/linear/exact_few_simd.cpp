// y = x W^T for few rows of x, in float32. Bound by the bytes of dense weights; for
// quantized ones by their conversion to float.
//
// Some rows of W run together, to hide the latency of the multiply-add; the 16 chains
// of the definition (linear.h) are the lanes. At the end of each block of 1024 the
// chains are set aside, and those of kLanes rows of W are added up together.
#include "optiq/kernels/linear/exact_weights.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

constexpr int kWide = kExactChains / kLanes;  // vectors that hold the chains

OPTIQ_INLINE int blocks_of(const InputRows& rows) {
  return (int)((rows.stride + kExactBlock - 1) / kExactBlock);
}

// Chains of rows n.. (kRows of them) with rows m.. of x: to[block][m][row][chain].
template <class Row, int kM, int kRows>
OPTIQ_INLINE void multiply_rows(const MatrixView& w, const InputRows& rows, int m0,
                                std::int64_t n, int valid, float* to) {
  Row row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = Row::of(w, n + (r < valid ? r : 0));
  const std::int64_t ahead = bytes_ahead(kRows, w.row_bytes());
  const float* x = rows.values + m0 * rows.stride;
  for (std::int64_t begin = 0; begin < w.K; begin += kExactBlock) {
    const std::int64_t end = begin + kExactBlock < w.K ? begin + kExactBlock : w.K;
    Vec sum[kRows][kM][kWide] = {};
    const auto add = [&](int r, const Vec* wv, std::int64_t k)
        __attribute__((always_inline)) {
      for (int m = 0; m < kM; ++m)
        for (int i = 0; i < 8; ++i)
          sum[r][m][i % kWide] = multiply_add(
              wv[i], load(x + m * rows.stride + k + i * kLanes), sum[r][m][i % kWide]);
    };
    std::int64_t k = begin;
    for (; k + kChunk <= end; k += kChunk)
      for (int r = 0; r < kRows; ++r) {
        Vec wv[8];
        prefetch_far(row[r].at(k) + ahead, Row::kChunkSize);
        row[r].chunk(k, wv);
        add(r, wv, k);
      }
    if (k < end)
      for (int r = 0; r < kRows; ++r) {
        Vec wv[8];
        row[r].rest(k, w.K, wv);
        add(r, wv, k);
      }
    for (int m = 0; m < kM; ++m)
      for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < kWide; ++i)
          store(to + (m * kLanes + r) * kExactChains + i * kLanes, sum[r][m][i]);
    to += kM * kLanes * kExactChains;
  }
}

template <class Row, int kM>
void few(const MatrixView& w, const InputRows& rows, int m0, int n_begin, int n_end,
         const Output& out, float* chains) {
  constexpr int kSums = kLanes == 8 ? 8 : 16;  // registers for sums
  constexpr int kFit = kSums / (kM * kWide);
  constexpr int kRows = kFit < 1 ? 1 : kFit > 4 ? 4 : kFit;
  const int blocks = blocks_of(rows);
  for (int n0 = n_begin; n0 < n_end; n0 += kLanes) {
    const int valid = n_end - n0 < kLanes ? n_end - n0 : kLanes;
    for (int r = 0; r < valid; r += kRows)
      multiply_rows<Row, kM, kRows>(w, rows, m0, n0 + r, valid - r,
                                    chains + r * kExactChains);
    for (int m = 0; m < kM; ++m) {
      Vec total{};
      for (int b = 0; b < blocks; ++b)
        for (int i = 0; i < kWide; ++i) {
          VecInt part[kLanes];
          for (int r = 0; r < kLanes; ++r)
            part[r] = (VecInt)load(chains + ((b * kM + m) * kLanes + r) * kExactChains +
                                   i * kLanes);
          transpose(part);
          for (int j = 0; j < kLanes; ++j) total += (Vec)part[j];
        }
      float sums[kLanes];
      store(sums, total);
      store_sums<kLanes>(sums, m0 + m, n0 - n_begin, valid, out);
    }
  }
}

template <class Row>
void few_of_any_m(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
                  const Output& out, float* chains) {
  // More rows than one pass takes: the second finds W in the cache.
  for (int n = n_begin; n < n_end; n += kLanes) {
    const int end = n_end - n < kLanes ? n_end : n + kLanes;
    const Output part = from_row(out, n - n_begin);
    int m = 0;
    for (; m + 4 <= rows.M; m += 4) few<Row, 4>(w, rows, m, n, end, part, chains);
    if (rows.M & 2) {
      few<Row, 2>(w, rows, m, n, end, part, chains);
      m += 2;
    }
    if (rows.M & 1) few<Row, 1>(w, rows, m, n, end, part, chains);
  }
}

}  // namespace

std::int64_t exact_few_scratch(const InputRows& rows) {
  return 4LL * blocks_of(rows) * 4 * kLanes * kExactChains;
}

void exact_few(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
               const Output& out, void* scratch) {
  with_row_type(w, [&](auto* row) {
    few_of_any_m<RowOf<decltype(row)>>(w, rows, n_begin, n_end, out, (float*)scratch);
  });
}

}  // namespace optiq::kernels::OPTIQ_SIMD
