// In which form weights and x meet on tensor cores, and how a lane finds x.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "optiq/kernels/linear/code_bytes.cuh"
#include "optiq/kernels/linear/code_halves.cuh"

namespace optiq::kernels::cuda {

/// Of sixteen rows of W by eight columns, mma's right side:
/// kBytes    codes are whole numbers of a byte and so are x's: each row of X has two
///           columns, high bytes and low ones. Exact; the least work for weights.
/// kHalves   both are halves, a column a row: 11 bits of x, the least work for x.
enum class XForm { kBytes, kHalves };

inline constexpr int kColumns = 8;

/// Columns of a row of X.
__host__ __device__ constexpr int columns_of(XForm form) {
  return form == XForm::kBytes ? 2 : 1;
}
/// Rows of X in a tile.
__host__ __device__ constexpr int rows_of_tile(XForm form) {
  return kColumns / columns_of(form);
}
/// Sums of a lane and a tile: rows r and r + 8 of W by row t of X, of halves by rows 2
/// t and 2 t + 1.
__host__ __device__ constexpr int sums_of_tile(XForm form) {
  return 4 / columns_of(form);
}

/// A group of X. Its columns are cut into the quarters of four lanes, those into pieces
/// of up to sixteen bytes, and pieces of the four lie side by side.
template <class F, XForm form_>
struct Operand {
  using Format = F;
  static constexpr XForm form = form_;
  static constexpr bool bytes = form == XForm::kBytes;
  static constexpr int columns_of_row = columns_of(form), rows = rows_of_tile(form);
  static constexpr int column_bytes = 2 * F::group / columns_of_row;
  static constexpr int row_bytes = columns_of_row * column_bytes;
  static constexpr int piece = std::min(16, column_bytes / 4);  // bytes
  static constexpr int pieces = column_bytes / 4 / piece;
  static constexpr int words = piece / 4;

  static constexpr int sums = sums_of_tile(form), rows_of_lane = sums / 2;
  using Sum = std::conditional_t<bytes, int, float>;

  /// Where piece p of a quarter lies in its column.
  static __host__ __device__ constexpr int at(int p, int quarter) {
    return (4 * p + quarter) * piece;
  }
  /// Registers of weights that meet words i of X's quarter.
  static __device__ std::uint32_t weights(const std::uint32_t* codes, int i) {
    if constexpr (bytes)
      return code_bytes<F>(codes, i);
    else
      return value_pair<F>(codes, i);
  }
};

/// A piece of X as registers.
__device__ inline void load_words(const char* from, std::uint32_t (&to)[2]) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  to[0] = v.x, to[1] = v.y;
}
__device__ inline void load_words(const char* from, std::uint32_t (&to)[4]) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ inline void store_words(const std::uint32_t (&words)[2], char* to) {
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}
__device__ inline void store_words(const std::uint32_t (&words)[4], char* to) {
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

/// A lane's sums of a tile, in memory.
template <int n>
using PackedSums = std::conditional_t<n == 2, float2, float4>;

__device__ inline float2 packed(const float (&y)[2]) { return make_float2(y[0], y[1]); }
__device__ inline float4 packed(const float (&y)[4]) {
  return make_float4(y[0], y[1], y[2], y[3]);
}
__device__ inline void unpack(const float2& v, float (&y)[2]) {
  y[0] = v.x, y[1] = v.y;
}
__device__ inline void unpack(const float4& v, float (&y)[4]) {
  y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
}
/// y = v + y.
__device__ inline void add_before(const float2& v, float (&y)[2]) {
  y[0] = v.x + y[0], y[1] = v.y + y[1];
}
__device__ inline void add_before(const float4& v, float (&y)[4]) {
  y[0] = v.x + y[0], y[1] = v.y + y[1], y[2] = v.z + y[2], y[3] = v.w + y[3];
}

}  // namespace optiq::kernels::cuda
