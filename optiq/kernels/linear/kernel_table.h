// What linear needs of a SIMD target; linear.cpp puts the parts together.
#pragma once
#include <cstdint>

#include "optiq/kernels/dispatch.h"
#include "optiq/kernels/matrix.h"

namespace optiq::kernels {

/// Chains of the float sum over groups, part of the definition of kInt8 (linear.h).
inline constexpr int kChains = 8;

/// A group whose largest |x| is below this is taken as zeros by kInt8: 127 / max|x|
/// would not be finite much below it.
inline constexpr float kSmallestStep = 1e-30f;

/// Part of the definition of kExact (linear.h).
inline constexpr int kExactChains = 16;
inline constexpr int kExactBlock = 1024;

/// The most rows of x that the kernels for few rows take.
inline constexpr int kFewRows = 8;

/// M rows of x, put into the form and order that the kernels of one format read.
struct InputRows {
  int M = 0, K = 0;
  bool few = false;    // for the kernels for few rows
  bool exact = false;  // as floats, not rounded
  int bits = 0;        // of the codes whose order this is; 0: dense, natural order
  int group_size = 0;  // rounded only

  // Rounded: groups padded with zeros to a multiple of kChains, and M to one of
  // `together` = T. Four codes of a row stay together: [M / T][stride / 4][T][4]. What
  // there is one of for a group is [M / T][groups][T].
  int together = 1;
  int groups = 0;
  std::int8_t* codes = nullptr;        // [M, stride]
  float* steps = nullptr;              // [M, groups] max|x| / 127; NaN if not finite
  float* sums = nullptr;               // [M, groups] step * sum(codes)
  std::int32_t* whole_sums = nullptr;  // [M, groups] sum(codes)

  // Exact: padded with zeros to a multiple of 128.
  float* values = nullptr;  // [M, stride]

  std::int64_t stride = 0;
};

/// Where the sums of rows [n_begin, n_end) of a matrix go: y[m stride + n - n_begin].
struct Output {
  float* y = nullptr;
  std::int64_t stride = 0;
  const float* bias = nullptr;      // [n_end - n_begin] or null
  const float* residual = nullptr;  // with the stride of y, or null
};

/// y for rows [n_begin, n_end) of W. `scratch` is aligned to 64 bytes.
using MultiplyFunction = void (*)(const MatrixView& w, const InputRows& rows,
                                  int n_begin, int n_end, const Output& out,
                                  void* scratch);
using ScratchFunction = std::int64_t (*)(const InputRows& rows);

struct LinearKernels {
  /// Rows of W that the kernels take together; chunks are multiples of it.
  int panel_rows = 0;
  /// Fills row m of `rows` from x[0, K).
  void (*round_row)(const float* x, const InputRows& rows, int m) = nullptr;
  void (*arrange_row)(const float* x, const InputRows& rows, int m) = nullptr;
  MultiplyFunction int8_few = nullptr, int8_many = nullptr;
  MultiplyFunction exact_few = nullptr, exact_many = nullptr;
  /// Bytes of scratch that the four want.
  ScratchFunction int8_many_scratch = nullptr;
  /// Rows of x that int8_many wants together, and how they get there:
  /// codes [rows][row_bytes] become [row_bytes / 4][rows][4].
  int int8_many_rows = 1;
  void (*interleave)(const std::int8_t* codes, std::int64_t row_bytes,
                     std::int8_t* to) = nullptr;
  ScratchFunction exact_few_scratch = nullptr, exact_many_scratch = nullptr;
  /// y[0, K) = row n of W, affine formats only.
  void (*dequantize_row)(const MatrixView& w, std::int64_t n, float* y) = nullptr;
};

OPTIQ_DECLARE_SIMD(LinearKernels linear_kernels())
#if defined(__x86_64__)
namespace amx {
LinearKernels linear_kernels();  // those of avx512 but for int8_many
}
#endif

namespace ref {
/// None: the scalar target runs the definitions.
inline LinearKernels linear_kernels() { return {}; }
}  // namespace ref

}  // namespace optiq::kernels
