// What surrounds a product of many rows on a CUDA device, which is made in bfloat16 by
// a library: x and weights into bfloat16, and results out of it.
#pragma once
#include <cstdint>
#include <span>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/matrix.h"

namespace optiq::kernels::cuda {

/// x [rows, K] in bfloat16 or, with `norm_weight` [K], what is normed by it.
struct NarrowRowsArgs {
  const float* x;
  const float* norm_weight;  // null: none
  float norm_eps;
  std::uint16_t* to;
  int rows, K;
};
void narrow_rows(const NarrowRowsArgs& args, const Launcher& launch);

/// w as bfloat16, [N, K].
///
/// Requires  affine codes
/// Cost      bound by bytes, most of them written
void dequantize(const MatrixView& w, std::uint16_t* to, const Launcher& launch);

inline constexpr int kMostParts = 4;

/// Columns of y that are a result of their own.
struct WidePart {
  const void* bias;       // [N], or null
  const float* residual;  // [rows, N], or null
  float* to;              // [rows, N]
  int N;
  FloatType bias_type;
};

/// Each part's columns of y [rows, all N], one behind the other, and what is added to
/// them, as float32.
///
/// Requires  at most kMostParts
void widen_rows(const std::uint16_t* y, int rows, std::span<const WidePart> parts,
                const Launcher& launch);

/// f(left half) (right half) of each row of y [rows, 2 N], [rows, N] in bfloat16.
void glu_halves(GluGate f, const std::uint16_t* y, int rows, int N, std::uint16_t* to,
                const Launcher& launch);

}  // namespace optiq::kernels::cuda
