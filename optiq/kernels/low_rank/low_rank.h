// What adapters add to a product: for each row the two thin matrices of its adapter.
//
// The base's product is made for all rows at once; this changes it row by row, so that
// rows with different adapters, and with none, share one pass over the base's weights.
#pragma once
#include <cstdint>
#include <span>

#include "optiq/kernels/float_type.h"

namespace optiq::kernels {

/// One adapter at one linear module.
///
/// Shapes    a [rank, K]; b [rank, N], as rows that lie one after another;
///           gain [N]: none but for DoRA
struct LowRankFactors {
  const void* a = nullptr;
  const void* b = nullptr;
  FloatType a_type = FloatType::kF32;
  FloatType b_type = FloatType::kF32;
  int rank = 0;
  float scale = 1;
  const float* gain = nullptr;
};

/// Rows [begin, end) of a call, and whose adapter changes them; null: nobody's.
struct LowRankRows {
  int begin = 0;
  int end = 0;
  const LowRankFactors* factors = nullptr;
};

struct LowRankArgs {
  const float* x = nullptr;         // [M, K]
  const float* y = nullptr;         // [M, N], the base's product, its bias included
  const float* residual = nullptr;  // [M, N]; null: none
  const float* bias = nullptr;      // [N] of the base; needed only with a gain
  float* out = nullptr;             // [M, N]; may be y or residual
  int K = 0;
  int N = 0;
  std::span<const LowRankRows> rows{};  // all M of them, each once
};

/// out = y + z + residual,  z = scale (x a^T) b,
/// and with a gain (DoRA)  out = gain (y - bias + z) + bias + residual.
///
/// for each of the products given: those of one layer and one input share the threads.
///
/// Cost      2 M rank (K + N) operations; reads a and b once for each eight rows.
/// Source    Hu et al. 2021 (LoRA), eq. 3; Liu et al. 2024 (DoRA), eq. 5 with the norm
///           as a constant in `gain`.
///
/// The sum over K runs in sixteen chains, k in chain k mod 16, added from the left; the
/// one over ranks in ascending order. So a row's result depends neither on the other
/// rows, nor on threads or the SIMD target.
void low_rank(std::span<const LowRankArgs> products);

/// Part of a call: rows [begin, end), at most kLowRankBlock of them, of one adapter.
/// h [rows, rank] is scale (x a^T).
inline constexpr int kLowRankBlock = 8;

namespace ref {
void low_rank_inner(const LowRankArgs& args, const LowRankFactors& f, int begin,
                    int end, float* h);
void low_rank_outer(const LowRankArgs& args, const LowRankFactors* f, int begin,
                    int end, const float* h, int n_begin, int n_end);
}  // namespace ref

}  // namespace optiq::kernels
