// x as affine_rows_cuda.cuh reads it: whole numbers of sixteen bits under the largest
// of each group, x ~ step X, as two bytes X = 256 high + low. The exact form has a
// second row of X for what the first leaves, 1 / 65024 of its step: thirty bits in all.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/code_bytes.cuh"
#include "optiq/kernels/linear/few_rows_args.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kReadyThreads = 256;  // of a block
inline constexpr int kReadyWarps = kReadyThreads / 32;

/// Rows of X, in shared memory or the device's: of each group `group` high bytes in the
/// order of the codes' bytes, then as many low ones; and step and step sum(X). Rows go
/// on with zeros to the end of a step. Of x that is to be normed X is without the
/// norm's factor, for which each warp's sum of squares is kept.
struct ReadyX {
  std::int8_t* bytes;  // [rows, groups, 2, group]
  float2* sums;        // [rows, groups]
  float* squares;      // [rows, kReadyWarps], of the first row of each row of x
  int groups;          // of a row, those of zeros among them

  __device__ __host__ ReadyX(void* memory, int rows, int n_groups, int group)
      : bytes(static_cast<std::int8_t*>(memory)),
        sums(reinterpret_cast<float2*>(bytes +
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
};

__device__ inline float with_squares(float sum, const float4& v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

// The largest size of a quarter's values; not finite if one of them is not.
__device__ inline float larger(float largest, float v) {
  const unsigned size = __float_as_uint(v) & 0x7fffffffu;
  return __uint_as_float(max(__float_as_uint(largest), size));
}

template <int n>
__device__ void store_bytes(const std::uint32_t (&words)[n], std::int8_t* to) {
  if constexpr (n == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4)
      *reinterpret_cast<uint4*>(to + 4 * i) =
          make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]);
  }
}

/// One quarter of a group of a row, on four neighbouring lanes at a time. `weight`:
/// null, or what x is multiplied by. Writes `parts` rows from `row` on; returns the sum
/// of x's squares, where there is a weight.
template <class F, int parts>
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
  constexpr float kLargest = 32512;  // 127 * 256: high bytes reach 127
  constexpr float kFiner = 65024;
  // Not fmaxf, which would hide what is no number.
  largest = largest < 1e-30f ? 1e-30f : largest;
  float step = largest * (1 / kLargest);
  const float inverse = __fdividef(kLargest, largest);
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) v[i] *= inverse;
#pragma unroll
  for (int part = 0; part < parts; ++part) {
    std::int8_t* high =
        to.bytes +
        (static_cast<std::int64_t>(row + part) * to.groups + group) * (2 * F::group) +
        t * F::quarter;
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
    store_bytes(highs, high);
    store_bytes(lows, high + F::group);
    sum += __shfl_xor_sync(four_lanes, sum, 1);
    sum += __shfl_xor_sync(four_lanes, sum, 2);
    if (t == 0)
      to.sums[(row + part) * to.groups + group] =
          make_float2(step, step * static_cast<float>(sum));
    step /= kFiner;
  }
  return square;
}

/// For calls of so many rows that every block would do the same again: a row is of the
/// blocks of one y, of which the first sums the squares, as one block alone would.
/// Leaves `zeros` [n_zeros] for the kernel that follows, too.
template <class F>
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
  if (group < n_groups)
    a.exact ? make_ready<F, 2>(x, a.norm_weight, a.K, ready, 2 * row, group)
            : make_ready<F, 1>(x, a.norm_weight, a.K, ready, row, group);
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
