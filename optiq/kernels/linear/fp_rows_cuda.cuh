// A few rows of x by codes of a small float format, on tensor cores, bound by the
// weights' bytes.
//
// Codes become half-precision values, which is exact, and x is rounded under the
// largest of its group: x ~ s (hi + lo), hi and lo in half precision. So mma.m16n8k16
// (16 rows of W, 8 rows of x) sums code x exactly but for its float32 sums, and a
// group's sum is scaled once: y += s scale sum(code xh),   xh = hi + lo.
//
// In a step a warp takes 16 rows and 256 values of each; the warps of a block
// share K. Steps go to eight slots in turn, each summed for itself, so that a result
// does not depend on how many warps there are. Lane 4 r + t has row r and r + 8 of the
// fragment and the t-th quarter of every group: one load for each row and group. Inside
// a quarter, codes are taken in the order in which they unpack cheapest, and x lies in
// the same order: mma sums over k in any.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/linear/code_halves.cuh"
#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/weight_steps.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kTileRows = 16;  // of W, in a fragment
inline constexpr int kWarps = 8;      // of a block
inline constexpr int kSlots = 8;      // sums of K, however many warps share it
inline constexpr int kSharedBytes = 96 << 10;

// x made ready, in shared memory or the device's: [parts][M] rows of `row` halves in
// the order of the codes, and of each row and group its step s. Rows go on with zeros
// to the end of a step.
struct HalfRows {
  __half* halves;
  float* steps;            // [M, groups]
  std::int64_t row, part;  // halves from one to the next
  int groups;              // of a row, those of zeros among them
};

/// True where each block makes x ready for itself.
inline bool makes_ready_in_block(int M, int N, int K, int parts) {
  return M * parts <= 2 && N <= 8192 && M * parts * K * 4 <= kSharedBytes;
}

__device__ inline void load_pairs(const __half* from, std::uint32_t (&to)[4]) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ inline void load_pairs(const __half* from, std::uint32_t (&to)[2]) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  to[0] = v.x, to[1] = v.y;
}

// One quarter of a group of one row, on four neighbouring lanes at a time.
template <class F, int parts>
__device__ void make_halves(const float* x, int K, const HalfRows& to, int row,
                            int group) {
  const int t = threadIdx.x & 3, k = group * F::group + t * F::quarter;
  const float* from = x + static_cast<std::int64_t>(row) * K + k;
  const bool is_there = k < K;
  float v[F::quarter];
  float largest = 0;
#pragma unroll
  for (int i = 0; i < F::quarter; i += 4) {
    const float4 four =
        is_there ? *reinterpret_cast<const float4*>(from + i) : make_float4(0, 0, 0, 0);
    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
  }
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) largest = fmaxf(largest, fabsf(v[i]));
  const unsigned four = 0xfu << (threadIdx.x & 28);
  largest = fmaxf(largest, __shfl_xor_sync(four, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(four, largest, 2));
  // The power of two above it: scaled values lie within [-1, 1].
  const std::uint32_t exponent =
      min(max((__float_as_uint(largest) >> 23) + 1, 24u), 252u);
  const float step = __uint_as_float(exponent << 23);
  const float inverse = __uint_as_float((254 - exponent) << 23);
  __half2 hi[F::quarter / 2], lo[F::quarter / 2];
#pragma unroll
  for (int i = 0; i < F::quarter; i += 2) {
    const float p = v[code_of_half<F>(i)] * inverse,
                q = v[code_of_half<F>(i + 1)] * inverse;
    hi[i / 2] = __floats2half2_rn(p, q);
    if constexpr (parts == 2) {
      const float2 seen = __half22float2(hi[i / 2]);
      lo[i / 2] = __floats2half2_rn(p - seen.x, q - seen.y);
    }
  }
  __half* at = to.halves + row * to.row + k;
#pragma unroll
  for (int i = 0; i < F::quarter / 2; i += 2) {
    *reinterpret_cast<uint2*>(at + 2 * i) =
        make_uint2(bits_of(hi[i]), bits_of(hi[i + 1]));
    if constexpr (parts == 2)
      *reinterpret_cast<uint2*>(at + to.part + 2 * i) =
          make_uint2(bits_of(lo[i]), bits_of(lo[i + 1]));
  }
  if (t == 0) to.steps[row * to.groups + group] = step;
}

// For calls of so many rows that every block would do the same again.
template <class F, int parts>
__global__ void ready_halves(const __grid_constant__ FewRowsArgs a,
                             const HalfRows ready) {
  wait_for_inputs();
  const int groups = ready.groups;
  const int unit = (blockIdx.x * blockDim.x + threadIdx.x) / 4;
  if (unit < a.M * groups)
    make_halves<F, parts>(a.x, a.K, ready, unit / groups, unit % groups);
}

/// A block has `row_warps` tiles of 16 rows; the warps of one tile share K. `in_block`:
/// every block makes x ready for itself, in shared memory.
template <class F, int tiles, int parts, int row_warps, bool in_block>
__global__ void __launch_bounds__(kWarps * 32, tiles == 4 ? 1 : 2)
    fp_rows_kernel(const __grid_constant__ FewRowsArgs a, HalfRows x) {
  char* const shared = dynamic_shared();
  constexpr int k_warps = kWarps / row_warps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const FewRowsProduct product = a.products[product_of_tile(a, blockIdx.x)];
  const int block = blockIdx.x - product.first_tile;
  const int tile = block * row_warps + warp % row_warps;
  const LaneRows<F> at(product, tile * kTileRows + r, a.K / 8 * F::bits,
                       a.K / F::group);

  Step<F, false> even, odd;
  int from = warp / row_warps * F::step;
  constexpr int stride = k_warps * F::step;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (from < a.K) even.load(a.K, at, t, from);
  wait_for_inputs();
  if constexpr (in_block) {
    x.row = x.groups * F::group + 8;
    x.part = a.M * x.row;
    x.halves = reinterpret_cast<__half*>(shared);
    x.steps = reinterpret_cast<float*>(shared + sizeof(__half) * parts * x.part);
    for (int row = 0; row < a.M; ++row)
      for (int group = threadIdx.x / 4; group < x.groups; group += kWarps * 8)
        make_halves<F, parts>(a.x, a.K, x, row, group);
    __syncthreads();
  }

  // Of rows that are not there some other's values do: their sums go nowhere.
  int in_x[tiles], in_steps[tiles][2];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    in_x[n] = min(n * 8 + r, a.M - 1) * static_cast<int>(x.row) + t * F::quarter;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      in_steps[n][j] = min(n * 8 + 2 * t + j, a.M - 1) * x.groups;
  }

  constexpr int slots = kSlots / k_warps;  // of this warp
  float y[slots][tiles][4] = {};
  const auto add = [&](const Step<F, false>& step, int begin, float(&sums)[tiles][4]) {
#pragma unroll
    for (int g = 0; g < F::groups; ++g) {
      float c[tiles][4] = {};
      constexpr int mmas = F::group / 16;
      constexpr int width = mmas > 1 ? 2 : 1;  // products of one load of x
#pragma unroll
      for (int m = 0; m < mmas; m += width) {
        std::uint32_t f[width][4];
#pragma unroll
        for (int i = 0; i < 4 * width; ++i)
          f[i / 4][i % 4] = value_pair<F>(step.codes[g][i % 2], 2 * m + i / 2);
#pragma unroll
        for (int n = 0; n < tiles; ++n)
#pragma unroll
          for (int part = 0; part < parts; ++part) {
            std::uint32_t b[2 * width];
            load_pairs(
                x.halves + part * x.part + (in_x[n] + begin + g * F::group + 4 * m), b);
#pragma unroll
            for (int i = 0; i < width; ++i)
              multiply_add(c[n], f[i], b[2 * i], b[2 * i + 1]);
          }
      }
      float scale[2];
#pragma unroll
      for (int h = 0; h < 2; ++h)
        scale[h] = step.scales.scale(a.scale_type, a.K, at, h, begin, g);
#pragma unroll
      for (int n = 0; n < tiles; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float s = x.steps[in_steps[n][j] + begin / F::group + g];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& sum = sums[n][2 * h + j];
            sum = fmaf(scale[h] * s, c[n][2 * h + j], sum);
          }
        }
    }
  };
  while (from < a.K) {
    if (from + stride < a.K) odd.load(a.K, at, t, from + stride);
    add(even, from, y[0]);
    from += stride;
    if (from >= a.K) break;
    if (from + stride < a.K) even.load(a.K, at, t, from + stride);
    add(odd, from, y[slots - 1]);
    from += stride;
  }

  // The slots of each tile in their order.
  __syncthreads();
  auto* sums = reinterpret_cast<float*>(shared);  // [kSlots][row_warps][tiles][32][4]
#pragma unroll
  for (int slot = 0; slot < slots; ++slot)
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      const int at = (slot * kWarps + warp) * tiles + n;
      *reinterpret_cast<float4*>(sums + (at * 32 + lane) * 4) =
          make_float4(y[slot][n][0], y[slot][n][1], y[slot][n][2], y[slot][n][3]);
    }
  __syncthreads();
  for (int i = threadIdx.x; i < row_warps * tiles * 128; i += kWarps * 32) {
    const int of_tile = i / (tiles * 128), n = i / 128 % tiles;
    const int of_lane = i / 4 % 32, j = i % 4;
    const int row =
        (block * row_warps + of_tile) * kTileRows + of_lane / 4 + 8 * (j / 2);  // of W
    const int m = n * 8 + 2 * (of_lane % 4) + j % 2;                            // of x
    if (row >= product.N || m >= a.M) continue;
    float sum = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      sum += sums[slot * row_warps * tiles * 128 + i];
    if (product.bias) sum += float_at(product.bias, row, product.bias_type);
    const std::int64_t at = static_cast<std::int64_t>(m) * product.N + row;
    if (product.residual) sum += product.residual[at];
    product.y[at] = sum;
  }
}

template <class F, int tiles, int parts, int row_warps, bool in_block>
void start_fp_rows(FewRowsArgs args, HalfRows ready, const Launcher& launch) {
  constexpr auto kernel = fp_rows_kernel<F, tiles, parts, row_warps, in_block>;
  const std::size_t of_x =
      !in_block ? 0
                : args.M * (sizeof(__half) * parts * (ready.groups * F::group + 8) +
                            sizeof(float) * ready.groups);
  const std::size_t of_sums = sizeof(float) * kSlots * row_warps * tiles * 128;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  const int block_rows = kTileRows * row_warps;
  int blocks = 0;
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = blocks;
    blocks += (args.products[i].N + block_rows - 1) / block_rows;
  }
  void* arguments[] = {&args, &ready};
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(blocks), 1, 1, kWarps * 32, std::max(of_x, of_sums)},
         arguments);
}

template <class F, int parts>
void fp_rows_in_parts(FewRowsArgs args, const Launcher& launch) {
  HalfRows ready{};
  ready.groups = (args.K + F::step - 1) / F::step * F::groups;
  const int K = ready.groups * F::group;  // with the zeros
  int N = 0;
  for (int i = 0; i < args.n_products; ++i) N += args.products[i].N;
  if (makes_ready_in_block(args.M, N, K, parts))
    return start_fp_rows<F, 1, parts, 1, true>(args, ready, launch);
  const std::int64_t values = static_cast<std::int64_t>(args.M) * K;
  ready.row = K;
  ready.part = values;
  ready.halves = static_cast<__half*>(args.scratch);
  ready.steps = reinterpret_cast<float*>(ready.halves + parts * values);
  void* arguments[] = {&args, &ready};
  const std::int64_t threads = values / F::quarter;
  launch(reinterpret_cast<const void*>(&ready_halves<F, parts>),
         {static_cast<unsigned>((threads + 127) / 128), 1, 1, 128}, arguments);
  if (args.M <= 8) return start_fp_rows<F, 1, parts, 2, false>(args, ready, launch);
  if (args.M <= 16) return start_fp_rows<F, 2, parts, 2, false>(args, ready, launch);
  start_fp_rows<F, 4, parts, 2, false>(args, ready, launch);
}

template <class F>
void fp_rows_of(const FewRowsArgs& args, const Launcher& launch) {
  if (args.exact)
    fp_rows_in_parts<F, 2>(args, launch);
  else
    fp_rows_in_parts<F, 1>(args, launch);
}

}  // namespace optiq::kernels::cuda
