// A few rows of x by affine codes, on tensor cores, bound by the weights' bytes.
//
// Codes are whole numbers of a byte, and so is x (ready_rows.cuh): mma.m16n8k32 sums
// code X of a group exactly, and each sum is scaled once:
//     y += scale step sum(code X) + bias step sum(X).
// Sixteen rows of W are the product's left side. Its eight columns are four rows of X,
// each with its high and its low bytes side by side, whose two sums lie in one lane.
//
// A block takes 16 rows of W, or a few times as many where K is short: its warps share
// K, step s being warp s mod k_warps', and what they sum is added in their order. So a
// result depends on K alone, neither on other rows nor on the grid. Blocks go on from
// tile to tile, reading the next one's first codes before they end the last. Lane 4 r +
// t has row r and r + 8 of the fragment and the t-th quarter of every group; mma sums
// over k in any order, so the order inside a quarter is that in which codes unpack
// cheapest.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/linear/code_bytes.cuh"
#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/weight_steps.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kTileRows = 16;  // of W, in a fragment
inline constexpr int kWarps = kReadyThreads / 32;
inline constexpr int kSharedBytes = 110 << 10;  // of two blocks beside each other

/// Warps that share K: as many as have a step, powers of two.
template <class F>
__host__ __device__ int warps_of_k(int K) {
  const int steps = (K + F::step - 1) / F::step;
  return steps >= 8 ? 8 : steps >= 4 ? 4 : steps >= 2 ? 2 : 1;
}

/// c += a b of one mma.m16n8k32, a unsigned and b signed bytes.
__device__ inline void multiply_add(int (&c)[4], const std::uint32_t (&a)[4],
                                    std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The bytes of a quarter as registers.
template <int n>
__device__ inline void load_bytes(const std::int8_t* from, std::uint32_t (&to)[n]) {
  if constexpr (n == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + 4 * i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}

/// Has memory on its way into the second-level cache, where a device can.
__device__ inline void prefetch(const void* from, std::int64_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto at = reinterpret_cast<std::uint64_t>(from);
  bytes &= ~std::int64_t{15};
  if (at % 16 == 0 && bytes > 0)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from),
                 "r"(static_cast<std::uint32_t>(bytes))
                 : "memory");
#endif
}

/// Rows of one product that a block takes at once, and which come next.
struct Place {
  int block, which, row;  // of a launch's blocks, of its products, of W
};

/// `tiles`: of four rows of X each. `in_block`: every block makes x ready for itself,
/// in shared memory. `wide`: scales are float32.
template <class F, int tiles, bool in_block, bool wide>
__global__ void __launch_bounds__(kReadyThreads, tiles <= 2 ? 2 : 1)
    affine_rows(const __grid_constant__ FewRowsArgs a, int n_groups, int n_blocks) {
  extern __shared__ __align__(16) char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int k_warps = warps_of_k<F>(a.K), block_rows = kTileRows * (kWarps / k_warps);
  const int stride = k_warps * F::step;
  const int first_step = warp % k_warps * F::step;
  const int parts = a.exact ? 2 : 1, x_rows = a.M * parts;

  const auto place_of = [&](int block, int which) {
    const int of_product = block - a.products[which].first_block;
    return Place{block, which, of_product * block_rows};
  };
  const auto first_of = [&](int block) {
    return place_of(block, a.glu ? 0 : product_of_block(a, block));
  };
  const auto after = [&](const Place& p) {
    if (a.glu && p.which == 0) return place_of(p.block, 1);
    return first_of(p.block + gridDim.x);
  };
  const auto rows_of_lane = [&](const Place& p) {
    const FewRowsProduct& product = a.products[p.which];
    const int row = p.row + warp / k_warps * kTileRows + r;
    const int rows[2] = {min(row, product.N - 1), min(row + 8, product.N - 1)};
    return LaneRows<F>(a, product, rows);
  };
  const auto fetch_ahead = [&](const Place& p) {
    if (threadIdx.x != 0 || p.block >= n_blocks) return;
    const FewRowsProduct& product = a.products[p.which];
    const std::int64_t row_bytes = static_cast<std::int64_t>(a.K) / 8 * F::bits;
    const std::int64_t of_scales = a.K / F::group * (wide ? 4 : 2);
    const int rows = min(block_rows, product.N - p.row);
    prefetch(product.w + p.row * row_bytes, rows * row_bytes);
    for (const void* scales : {product.scales, product.biases})
      prefetch(static_cast<const char*>(scales) + p.row * of_scales, rows * of_scales);
  };

  Place here = first_of(blockIdx.x), next = after(here);
  LaneRows<F> at = rows_of_lane(here);
  Step<F, wide> even, odd;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (first_step < a.K) even.load(a, at, t, first_step);
  fetch_ahead(here);
  auto* sums = reinterpret_cast<float2*>(shared);  // two of [kWarps][tiles][32]
  constexpr int kSums = kWarps * tiles * 32;
  ReadyX x(in_block ? static_cast<void*>(sums + 2 * kSums) : a.scratch, x_rows,
           n_groups, F::group);
  if constexpr (in_block) {
    const float* weight = nullptr;
    if (a.norm_weight) {
      auto* copy = reinterpret_cast<float*>(x.sums + x_rows * n_groups);
      start_copy<kReadyThreads>(copy, a.norm_weight, a.K * sizeof(float));
      end_copies();
      weight = copy;
    }
    wait_for_inputs();
    for (int m = 0; m < a.M; ++m) {
      const float* row = a.x + static_cast<std::int64_t>(m) * a.K;
      float factor = 1;
      if (weight) {
        wait_for_copies<0>();
        factor = norm_factor(row, a.K, a.norm_eps);
      }
      for (int group = threadIdx.x / 4; group < n_groups; group += kReadyThreads / 4)
        make_ready<F>(row, weight, factor, a.K, x, m * parts, group, parts);
    }
    __syncthreads();
  } else {
    wait_for_inputs();
  }

  // Of rows that are not there some other's values do: their sums go nowhere.
  int x_at[tiles], x_sums[tiles];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    const int column_row = min(n * 4 + r / 2, x_rows - 1);
    x_at[n] = (column_row * n_groups * 2 + r % 2) * F::group + t * F::quarter;
    x_sums[n] = min(n * 4 + t, x_rows - 1) * n_groups;
  }

  float y[tiles][2] = {};
  const auto add = [&](const Step<F, wide>& step, int begin) {
#pragma unroll
    for (int g = 0; g < F::groups; ++g) {
      int c[tiles][4] = {};
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        std::uint32_t b[F::quarter / 4];
        load_bytes(x.bytes + (x_at[n] + 2 * (begin + g * F::group)), b);
#pragma unroll
        for (int m = 0; m < F::quarter / 8; ++m) {
          const std::uint32_t f[4] = {code_bytes<F>(step.codes[g][0], 2 * m),
                                      code_bytes<F>(step.codes[g][1], 2 * m),
                                      code_bytes<F>(step.codes[g][0], 2 * m + 1),
                                      code_bytes<F>(step.codes[g][1], 2 * m + 1)};
          multiply_add(c[n], f, b[2 * m], b[2 * m + 1]);
        }
      }
      float scale[2], bias[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        scale[h] = step.scale(a, step.scales[h], at.scales[h], begin, g);
        bias[h] = step.scale(a, step.biases[h], at.biases[h], begin, g);
      }
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        const float2 s =
            x.sums[x_sums[n] + static_cast<unsigned>(begin) / F::group + g];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const auto sum = static_cast<float>(256 * c[n][2 * h] + c[n][2 * h + 1]);
          y[n][h] = fmaf(scale[h] * s.x, sum, y[n][h]);
          y[n][h] = fmaf(bias[h], s.y, y[n][h]);
        }
      }
    }
  };

  int turn = 0;
  // What the warps have summed for one of a tile's rows and a row of x, and the bias.
  const auto total = [&](const float2* of_warps, const FewRowsProduct& product, int row,
                         int of_block, int m) {
    const int of_tile = of_block % kTileRows;
    const float2* of_row = of_warps + of_block / kTileRows * k_warps * tiles * 32;
    float sum = 0;
    for (int x_row = m * parts; x_row < (m + 1) * parts; ++x_row) {
      const float2* from = of_row + x_row / 4 * 32 + of_tile % 8 * 4 + x_row % 4;
      for (int k = 0; k < k_warps; ++k) {
        const float2 v = from[k * tiles * 32];
        sum += of_tile < 8 ? v.x : v.y;
      }
    }
    if (product.bias) sum += float_at(product.bias, row, product.bias_type);
    return sum;
  };
  const auto end_tile = [&](const Place& p) {
    float2* mine = sums + turn * kSums;
    turn ^= 1;
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      mine[(warp * tiles + n) * 32 + lane] = make_float2(y[n][0], y[n][1]);
      y[n][0] = y[n][1] = 0;
    }
    __syncthreads();
    if (a.glu && p.which == 0) return;  // its sums wait for the other product's
    const FewRowsProduct& product = a.products[p.which];
    for (int i = threadIdx.x; i < block_rows * a.M; i += kReadyThreads) {
      const int of_block = i % block_rows, m = i / block_rows, row = p.row + of_block;
      if (row >= product.N) continue;
      float sum = total(mine, product, row, of_block, m);
      if (a.glu)
        sum *= gate_value(a.gate,
                          total(sums + turn * kSums, a.products[0], row, of_block, m));
      const std::int64_t to = static_cast<std::int64_t>(m) * product.N + row;
      if (product.residual) sum += product.residual[to];
      product.y[to] = sum;
    }
    if (a.glu) __syncthreads();  // both turns' sums have been read
  };

  // One step after another, of this tile and the next: a turn has the codes of one in
  // registers while the other's come.
  int from = first_step;
  const auto one_step = [&](const Step<F, wide>& now, Step<F, wide>& coming) {
    const bool ends = from + stride >= a.K;
    LaneRows<F> next_at = at;
    int next_from = from + stride;
    if (ends) {
      if (next.block < n_blocks) next_at = rows_of_lane(next);
      next_from = first_step;
    }
    if ((!ends || next.block < n_blocks) && next_from < a.K)
      coming.load(a, next_at, t, next_from);
    if (from < a.K) add(now, from);
    from = next_from;
    at = next_at;
    if (!ends) return true;
    end_tile(here);
    here = next;
    if (here.block >= n_blocks) return false;
    next = after(here);
    return true;
  };
  fetch_ahead(next);
  while (one_step(even, odd) && one_step(odd, even)) {
  }
}

template <class F, int tiles, bool in_block, bool wide>
void start_affine_rows(FewRowsArgs args, int n_groups, const Launcher& launch) {
  constexpr auto kernel = affine_rows<F, tiles, in_block, wide>;
  std::size_t shared = sizeof(float2) * 2 * kWarps * tiles * 32;
  if (in_block) {
    shared += ReadyX::size(args.M * (args.exact ? 2 : 1), n_groups, F::group);
    if (args.norm_weight) shared += args.K * sizeof(float);
  }
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  const int block_rows = kTileRows * (kWarps / warps_of_k<F>(args.K));
  int blocks = 0;
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_block = args.glu ? 0 : blocks;
    if (i == 0 || !args.glu)
      blocks += (args.products[i].N + block_rows - 1) / block_rows;
  }
  const int grid = std::min(
      blocks,
      blocks_at_once(reinterpret_cast<const void*>(kernel), kReadyThreads, shared));
  void* arguments[] = {&args, &n_groups, &blocks};
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(grid), 1, 1, kReadyThreads, shared}, arguments);
}

template <class F>
void affine_rows_of(const FewRowsArgs& args, const Launcher& launch) {
  int n_groups = (args.K + F::step - 1) / F::step * F::groups;
  const int x_rows = args.M * (args.exact ? 2 : 1);
  const bool wide = args.scale_type == FloatType::kF32;
  // Each block may make a row or two ready for itself, in a third of its share of
  // memory.
  if (!wide && x_rows <= 2 &&
      ReadyX::size(x_rows, n_groups, F::group) <= kSharedBytes / 2)
    return start_affine_rows<F, 1, true, false>(args, n_groups, launch);
  FewRowsArgs copy = args;
  void* arguments[] = {&copy, &n_groups};
  const auto blocks =
      static_cast<unsigned>((4 * n_groups + kReadyThreads - 1) / kReadyThreads);
  launch(reinterpret_cast<const void*>(&ready_rows<F>),
         {blocks, static_cast<unsigned>(args.M), 1, kReadyThreads}, arguments);
  // Rare: one kernel for any number of rows.
  if (wide) return start_affine_rows<F, 8, false, true>(args, n_groups, launch);
  if (x_rows <= 4) return start_affine_rows<F, 1, false, false>(args, n_groups, launch);
  if (x_rows <= 8) return start_affine_rows<F, 2, false, false>(args, n_groups, launch);
  if (x_rows <= 16)
    return start_affine_rows<F, 4, false, false>(args, n_groups, launch);
  start_affine_rows<F, 8, false, false>(args, n_groups, launch);
}

template <int bits>
void affine_rows_of_bits(const FewRowsArgs& args, int group, const Launcher& launch) {
  if (group == 32)
    return affine_rows_of<Format<QuantMode::kAffine, bits, 32>>(args, launch);
  if (group == 64)
    return affine_rows_of<Format<QuantMode::kAffine, bits, 64>>(args, launch);
  affine_rows_of<Format<QuantMode::kAffine, bits, 128>>(args, launch);
}

}  // namespace optiq::kernels::cuda
