// x as products of few rows read it: in a form of operand.cuh under the largest of each
// group, x ~ step X.
// kBytes    whole numbers of sixteen bits, X = 256 high + low. The exact form has a
//           second row of X for what the first leaves, 1 / 65024 of its step: thirty
//           bits in all.
// kHalves   halves under a power of two.
#pragma once
#include <algorithm>
#include <cstdint>

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/operand.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kReadyThreads = 256;  // of a block
inline constexpr int kReadyWarps = kReadyThreads / 32;

/// Rows of X, in shared memory or the device's: of each group its columns; and step and
/// step sum(X). Rows go on with zeros to the end of a step. Of x that is to be normed X
/// is without the norm's factor, for which each warp's sum of squares is kept.
struct ReadyX {
  char* values;    // [rows, groups, 2 group]
  float2* sums;    // [rows, groups]
  float* squares;  // [rows, kReadyWarps], of the first row of each row of x
  int groups;      // of a row, those of zeros among them

  __device__ __host__ ReadyX(void* memory, int rows, int n_groups, int group)
      : values(static_cast<char*>(memory)),
        sums(reinterpret_cast<float2*>(values +
                                       std::int64_t{2} * rows * n_groups * group)),
        squares(reinterpret_cast<float*>(sums + std::int64_t{1} * rows * n_groups)),
        groups(n_groups) {}
  /// A multiple of 8 bytes.
  static __host__ std::size_t size(int rows, int n_groups, int group) {
    return std::size_t(rows) *
           (n_groups * (2 * group + sizeof(float2)) + kReadyWarps * sizeof(float));
  }

  /// Called by all lanes of a warp with what each has summed.
  __device__ void keep_squares(int row, float square) const {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      square += __shfl_xor_sync(~0u, square, step);
    if (threadIdx.x % 32 == 0) squares[row * kReadyWarps + threadIdx.x / 32] = square;
  }
  /// What the norm multiplies a row of x by.
  __device__ float norm_factor(const FewRowsArgs& a, int row) const {
    const float* v = squares + row * kReadyWarps;
    const float square =
        ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    return rsqrtf(square / static_cast<float>(a.K) + a.norm_eps);
  }
};

__device__ inline float with_squares(float sum, const float4& v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

// The largest size of a quarter's values; not finite if one of them is not, which fmaxf
// would hide.
__device__ inline float larger(float largest, float v) {
  const unsigned size = __float_as_uint(v) & 0x7fffffffu;
  return __uint_as_float(max(__float_as_uint(largest), size));
}

/// The sum over four neighbouring lanes.
template <class T>
__device__ T quarters_sum(T v) {
  const unsigned four_lanes = 0xfu << (threadIdx.x & 28);
  v += __shfl_xor_sync(four_lanes, v, 1);
  return v + __shfl_xor_sync(four_lanes, v, 2);
}

/// A quarter's values, the largest of the group, as bytes of `parts` rows from `row`
/// on.
template <class F, int parts>
__device__ void store_bytes(float (&v)[F::quarter], float largest, const ReadyX& to,
                            int row, int group) {
  using X = Operand<F, XForm::kBytes>;
  const int t = threadIdx.x & 3;
  constexpr float kLargest = 32512;  // 127 * 256: high bytes reach 127
  constexpr float kFiner = 65024;
  largest = largest < 1e-30f ? 1e-30f : largest;
  float step = largest * (1 / kLargest);
  const float inverse = __fdividef(kLargest, largest);
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) v[i] *= inverse;
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    const std::int64_t at = static_cast<std::int64_t>(row + part) * to.groups + group;
    char* const high = to.values + at * X::row_bytes;
    // Added to 1.5 2^23, a number's nearest whole one is in the low bits.
    constexpr float kRounder = 12582912;
    int whole[F::quarter], sum = 0;
#pragma unroll
    for (int i = 0; i < F::quarter; ++i) {
      const float raised = v[i] + kRounder;
      whole[i] = __float_as_int(raised) - __float_as_int(kRounder);
      sum += whole[i];
      if (parts > 1) v[i] = (v[i] - (raised - kRounder)) * kFiner;
    }
    std::uint32_t highs[F::quarter / 4], lows[F::quarter / 4];
#pragma unroll
    for (int i = 0; i < F::quarter; i += 4) {
      const auto X = [&](int j) {
        return static_cast<unsigned>(whole[code_of_byte<F>(i + j)]);
      };
      lows[i / 4] = __byte_perm(__byte_perm(X(0), X(1), 0x0040),
                                __byte_perm(X(2), X(3), 0x0040), 0x5410);
      highs[i / 4] = __byte_perm(__byte_perm(X(0) + 128, X(1) + 128, 0x0051),
                                 __byte_perm(X(2) + 128, X(3) + 128, 0x0051), 0x5410);
    }
#pragma unroll
    for (int p = 0; p < X::pieces; ++p) {
      std::uint32_t words[2][X::words];
#pragma unroll
      for (int i = 0; i < X::words; ++i)
        words[0][i] = highs[p * X::words + i], words[1][i] = lows[p * X::words + i];
      store_words(words[0], high + X::at(p, t));
      store_words(words[1], high + X::column_bytes + X::at(p, t));
    }
    sum = quarters_sum(sum);
    if (t == 0) to.sums[at] = make_float2(step, step * static_cast<float>(sum));
    step /= kFiner;
  }
}

/// The same as halves.
template <class F>
__device__ void store_halves(const float (&v)[F::quarter], float largest,
                             const ReadyX& to, int row, int group) {
  using X = Operand<F, XForm::kHalves>;
  const int t = threadIdx.x & 3;
  // The largest becomes 2^14 to 2^15: halves reach 2^16, and what is 2^28 times smaller
  // has all its bits.
  const unsigned exponent = max(__float_as_uint(largest) >> 23, 38u) - 14;
  const float step = __uint_as_float(exponent << 23);
  const float inverse = __uint_as_float((254 - exponent) << 23);
  const std::int64_t at = static_cast<std::int64_t>(row) * to.groups + group;
  float sum = 0;
#pragma unroll
  for (int p = 0; p < X::pieces; ++p) {
    std::uint32_t words[X::words];
#pragma unroll
    for (int i = 0; i < X::words; ++i) {
      const auto scaled = [&](int half) {
        return v[code_of_half<F>(2 * (p * X::words + i) + half)] * inverse;
      };
      const __half2 both = __floats2half2_rn(scaled(0), scaled(1));
      const float2 kept = __half22float2(both);
      sum += kept.x + kept.y;
      words[i] = bits_of(both);
    }
    store_words(words, to.values + at * X::row_bytes + X::at(p, t));
  }
  sum = quarters_sum(sum);
  if (t == 0) to.sums[at] = make_float2(step, step * sum);
}

/// One quarter of a group of a row, on four neighbouring lanes at a time. `weight`:
/// null, or what x is multiplied by. Writes `parts` rows from `row` on; returns the sum
/// of x's squares, where there is a weight.
template <class F, XForm form, int parts>
__device__ float make_ready(const float* x, const float* weight, int K,
                            const ReadyX& to, int row, int group) {
  const int t = threadIdx.x & 3, k = group * F::group + t * F::quarter;
  float v[F::quarter];
  float largest = 0, square = 0;
  float4 fours[F::quarter / 4];  // all on their way at once
#pragma unroll
  for (int i = 0; i < F::quarter / 4; ++i)
    fours[i] = k < K ? *reinterpret_cast<const float4*>(x + k + 4 * i)
                     : make_float4(0, 0, 0, 0);
  if (weight && k < K) {
#pragma unroll
    for (int i = 0; i < F::quarter / 4; ++i) {
      square = with_squares(square, fours[i]);
      const float4 w = *reinterpret_cast<const float4*>(weight + k + 4 * i);
      fours[i].x *= w.x, fours[i].y *= w.y, fours[i].z *= w.z, fours[i].w *= w.w;
    }
  }
#pragma unroll
  for (int i = 0; i < F::quarter; i += 4) {
    const float4& four = fours[i / 4];
    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
  }
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) largest = larger(largest, v[i]);
  const unsigned four_lanes = 0xfu << (threadIdx.x & 28);
  largest = larger(largest, __shfl_xor_sync(four_lanes, largest, 1));
  largest = larger(largest, __shfl_xor_sync(four_lanes, largest, 2));
  if constexpr (form == XForm::kBytes)
    store_bytes<F, parts>(v, largest, to, row, group);
  else
    store_halves<F>(v, largest, to, row, group);
  return square;
}

/// For calls of so many rows that every block would do the same again: a row is of the
/// blocks of one y, of which the first sums the squares, as one block alone would.
/// Leaves `zeros` [n_zeros] for the kernel that follows, too.
template <class F, XForm form>
__global__ void __launch_bounds__(kReadyThreads)
    ready_rows(const __grid_constant__ FewRowsArgs a, int n_groups, std::int32_t* zeros,
               int n_zeros) {
  wait_for_inputs();
  for (int i = (blockIdx.y * gridDim.x + blockIdx.x) * kReadyThreads + threadIdx.x;
       i < n_zeros; i += gridDim.x * gridDim.y * kReadyThreads)
    zeros[i] = 0;
  const int row = blockIdx.y, parts = a.exact ? 2 : 1;
  const float* x = a.x + static_cast<std::int64_t>(row) * a.K;
  const ReadyX ready(a.scratch, a.M * parts, n_groups, F::group);
  const int group = (blockIdx.x * kReadyThreads + threadIdx.x) / 4;
  if (group < n_groups) {
    if constexpr (form == XForm::kHalves)
      make_ready<F, form, 1>(x, a.norm_weight, a.K, ready, row, group);
    else
      a.exact ? make_ready<F, form, 2>(x, a.norm_weight, a.K, ready, 2 * row, group)
              : make_ready<F, form, 1>(x, a.norm_weight, a.K, ready, row, group);
  }
  if (!a.norm_weight || blockIdx.x != 0) return;
  float square = 0;
  for (int k = threadIdx.x * F::quarter; k < a.K; k += kReadyThreads * F::quarter) {
    float of_quarter = 0;
#pragma unroll
    for (int i = 0; i < F::quarter; i += 4)
      of_quarter =
          with_squares(of_quarter, *reinterpret_cast<const float4*>(x + k + i));
    square += of_quarter;
  }
  ready.keep_squares(row * parts, square);
}

}  // namespace optiq::kernels::cuda
