// x as affine_rows_cuda.cuh reads it: whole numbers of sixteen bits under the largest
// of each group, x ~ step X, as two bytes X = 256 high + low. The exact form has a
// second row of X for what the first leaves, 1 / 65024 of its step: thirty bits in all.
#pragma once
#include <cstdint>

#include "optiq/kernels/linear/code_bytes.cuh"
#include "optiq/kernels/linear/few_rows_args.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kReadyThreads = 256;  // of a block

/// Rows of X, in shared memory or the device's: of each group `group` high bytes in the
/// order of the codes' bytes, then as many low ones; and step and step sum(X). Rows go
/// on with zeros to the end of a step.
struct ReadyX {
  std::int8_t* bytes;  // [rows, groups, 2, group]
  float2* sums;        // [rows, groups]
  int groups;          // of a row, those of zeros among them

  __device__ __host__ ReadyX(void* memory, int rows, int n_groups, int group)
      : bytes(static_cast<std::int8_t*>(memory)),
        sums(reinterpret_cast<float2*>(bytes +
                                       std::int64_t{2} * rows * n_groups * group)),
        groups(n_groups) {}
  static __host__ std::size_t size(int rows, int n_groups, int group) {
    return std::size_t(rows) * n_groups * (2 * group + sizeof(float2));
  }
};

/// 1 / the root of the mean square of a row, by all threads of a block.
__device__ inline float norm_factor(const float* x, int K, float eps) {
  __shared__ float sums[kReadyThreads / 32];
  float square = 0;
  for (int i = 4 * threadIdx.x; i < K; i += 4 * kReadyThreads) {
    const float4 v = *reinterpret_cast<const float4*>(x + i);
    square = fmaf(v.x, v.x, square), square = fmaf(v.y, v.y, square);
    square = fmaf(v.z, v.z, square), square = fmaf(v.w, v.w, square);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
  __syncthreads();  // the sums of a row before have been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = square;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kReadyThreads / 32; ++warp) sum += sums[warp];
  return 1 / sqrtf(sum / static_cast<float>(K) + eps);
}

// The largest size of a quarter's values; not finite if one of them is not.
__device__ inline float larger(float largest, float v) {
  const unsigned size = __float_as_uint(v) & 0x7fffffffu;
  return __uint_as_float(max(__float_as_uint(largest), size));
}

/// One quarter of a group of a row, on four neighbouring lanes at a time. `weight`:
/// null, or what x is multiplied by besides `factor`. Writes `parts` rows from `row`
/// on.
template <class F>
__device__ void make_ready(const float* x, const float* weight, float factor, int K,
                           const ReadyX& to, int row, int group, int parts) {
  const int t = threadIdx.x & 3, k = group * F::group + t * F::quarter;
  float v[F::quarter];
  float largest = 0;
#pragma unroll
  for (int i = 0; i < F::quarter; i += 4) {
    float4 four = make_float4(0, 0, 0, 0);
    if (k < K) {
      four = *reinterpret_cast<const float4*>(x + k + i);
      if (weight) {
        const float4 w = *reinterpret_cast<const float4*>(weight + k + i);
        four.x = w.x * (four.x * factor), four.y = w.y * (four.y * factor);
        four.z = w.z * (four.z * factor), four.w = w.w * (four.w * factor);
      }
    }
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
  float step = (largest < 1e-30f ? 1e-30f : largest) / kLargest;
  const float inverse = 1 / step;
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) v[i] *= inverse;
  for (int part = 0; part < parts; ++part) {
    std::int8_t* high =
        to.bytes +
        (static_cast<std::int64_t>(row + part) * to.groups + group) * (2 * F::group) +
        t * F::quarter;
    int whole[F::quarter], sum = 0;
#pragma unroll
    for (int i = 0; i < F::quarter; ++i) {
      const float nearest = rintf(v[i]);
      whole[i] = static_cast<int>(nearest);
      sum += whole[i];
      v[i] = (v[i] - nearest) * kFiner;
    }
#pragma unroll
    for (int i = 0; i < F::quarter; i += 4) {
      std::uint32_t highs = 0, lows = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int X = whole[code_of_byte<F>(i + j)];
        highs |= (static_cast<std::uint32_t>(X + 128) >> 8 & 0xff) << (8 * j);
        lows |= (static_cast<std::uint32_t>(X) & 0xff) << (8 * j);
      }
      *reinterpret_cast<std::uint32_t*>(high + i) = highs;
      *reinterpret_cast<std::uint32_t*>(high + F::group + i) = lows;
    }
    sum += __shfl_xor_sync(four_lanes, sum, 1);
    sum += __shfl_xor_sync(four_lanes, sum, 2);
    if (t == 0)
      to.sums[(row + part) * to.groups + group] =
          make_float2(step, step * static_cast<float>(sum));
    step /= kFiner;
  }
}

/// For calls of so many rows that every block would do the same again: a row is of the
/// blocks of one y.
template <class F>
__global__ void __launch_bounds__(kReadyThreads)
    ready_rows(const __grid_constant__ FewRowsArgs a, int n_groups) {
  wait_for_inputs();
  const int row = blockIdx.y, parts = a.exact ? 2 : 1;
  const float* x = a.x + static_cast<std::int64_t>(row) * a.K;
  const ReadyX ready(a.scratch, a.M * parts, n_groups, F::group);
  const float factor = a.norm_weight ? norm_factor(x, a.K, a.norm_eps) : 1;
  const int group = (blockIdx.x * kReadyThreads + threadIdx.x) / 4;
  if (group < n_groups)
    make_ready<F>(x, a.norm_weight, factor, a.K, ready, row * parts, group, parts);
}

}  // namespace optiq::kernels::cuda
