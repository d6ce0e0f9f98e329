// The parts of linear that kernel_table_simd.cpp collects, one source file each.
// Included by *_simd.cpp only; the comments are at the members of LinearKernels.
#pragma once
#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {

void round_row(const float* x, const InputRows& rows, int m);
void arrange_row(const float* x, const InputRows& rows, int m);
void int8_few(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
              const Output& out, void* scratch);
void int8_many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
               const Output& out, void* scratch);
void exact_few(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
               const Output& out, void* scratch);
void exact_many(const MatrixView& w, const InputRows& rows, int n_begin, int n_end,
                const Output& out, void* scratch);
std::int64_t int8_many_scratch(const InputRows& rows);
std::int64_t exact_few_scratch(const InputRows& rows);
std::int64_t exact_many_scratch(const InputRows& rows);
void dequantize_row(const MatrixView& w, std::int64_t n, float* y);

/// Where int8_many has group g: chain after chain.
OPTIQ_INLINE int chain_position(int g, int groups) {
  return g % kChains * (groups / kChains) + g / kChains;
}

/// One value of any type.
OPTIQ_INLINE float float_at(const void* from, std::int64_t i, FloatType type) {
  if (type == FloatType::kF32) {
    float value;
    __builtin_memcpy(&value, (const char*)from + 4 * i, 4);
    return value;
  }
  std::uint16_t half;
  __builtin_memcpy(&half, (const char*)from + 2 * i, 2);
  if (type == FloatType::kBF16) {
    const std::uint32_t wide = (std::uint32_t)half << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
  }
#if defined(__AVX2__)
  return _cvtsh_ss(half);
#else
  __fp16 value;
  __builtin_memcpy(&value, &half, 2);
  return (float)value;
#endif
}

/// kLanes values of any type.
OPTIQ_INLINE Vec load_any(const void* from, std::int64_t i, FloatType type) {
  if (type == FloatType::kF32) return load((const float*)from + i);
  const std::uint16_t* half = (const std::uint16_t*)from + i;
  return type == FloatType::kF16 ? load_f16(half) : load_bf16(half);
}

/// Asks for bytes to come to the second level cache: there is room for many requests on
/// the way there, but for few on the way to the first. Past the end of the memory it
/// does nothing.
OPTIQ_INLINE void prefetch_far(const void* p, std::int64_t size) {
  for (std::int64_t i = 0; i < size; i += 64)
    __builtin_prefetch((const char*)p + i, 0, 2);
}

/// How far ahead to ask when `rows` rows of W are read side by side: 12 KB or more, in
/// whole steps of such rows, so that each line is asked for once.
OPTIQ_INLINE std::int64_t bytes_ahead(std::int64_t rows, std::int64_t row_bytes) {
  return rows * row_bytes * (1 + 12288 / (rows * row_bytes));
}

/// The output of rows from n on.
OPTIQ_INLINE Output from_row(const Output& out, std::int64_t n) {
  return {out.y + n, out.stride, out.bias ? out.bias + n : nullptr,
          out.residual ? out.residual + n : nullptr};
}

/// Stores sums of `valid` of the kN columns from `at` on, with bias and residual, for
/// row m.
template <int kN>
OPTIQ_INLINE void store_sums(const float* sums, int m, std::int64_t at, int valid,
                             const Output& out) {
  float* y = out.y + m * out.stride + at;
  const float* residual = out.residual ? out.residual + m * out.stride + at : nullptr;
  if (valid == kN) {
    for (int n = 0; n < kN; n += kLanes) {
      Vec v = load(sums + n);
      if (out.bias) v += load(out.bias + at + n);
      if (residual) v += load(residual + n);
      store(y + n, v);
    }
    return;
  }
  for (int n = 0; n < valid; ++n) {
    float v = sums[n];
    if (out.bias) v += out.bias[at + n];
    if (residual) v += residual[n];
    y[n] = v;
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
