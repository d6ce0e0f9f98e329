// A few rows of x by affine codes, on tensor cores, bound by the weights' bytes.
//
// Codes are whole numbers of a byte, and so is x (ready_rows.cuh): mma.m16n8k32 sums
// code X of a group exactly, and each sum is scaled once:
//     y += scale step sum(code X) + bias step sum(X).
// Sixteen rows of W are the product's left side. Its eight columns are four rows of X,
// each with its high and its low bytes side by side, whose two sums lie in one lane.
//
// A group of warps takes 16 rows of W, a tile: K is cut into ranges, each summed for
// itself, and each warp has one or a few. The sums of ranges are added in their order,
// so that a result depends on K alone: neither on other rows, nor on the grid, nor on
// how many warps there are to a tile. Groups go on from tile to tile, reading the next
// one's first codes before they end the last. Lane 4 r + t has row r and r + 8 of the
// fragment and the t-th quarter of every group of codes; mma sums over k in any order,
// so the order inside a quarter is that in which codes unpack cheapest.
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
inline constexpr int kWarps = kReadyWarps;
inline constexpr int kSharedBytes = 112 << 10;  // of two blocks beside each other

/// How K is cut: into at most eight ranges of equally many steps, but for the last.
struct Ranges {
  int steps, length, n;

  template <class F>
  static __host__ __device__ Ranges of(int K) {
    const int steps = (K + F::step - 1) / F::step, length = (steps + 7) / 8;
    return {steps, length, (steps + length - 1) / length};
  }
};

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
__device__ inline void prefetch(const void* from, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto at = reinterpret_cast<std::uint64_t>(from);
  bytes &= ~15u;
  if (at % 16 == 0 && bytes > 0)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes)
                 : "memory");
#endif
}

/// What a launch is besides its arguments.
struct AffineRowsGrid {
  int n_groups;  // of a row of X
  int k_warps;   // of a tile: 1, 2, 4 or 8
  int n_tiles;   // of all products; pairs of them where gates are joined
};

/// A tile: of which product, its first row of W.
struct Place {
  int tile, which, row;
};

/// `tiles`: of four rows of X each. `in_block`: every block makes x ready for itself,
/// in shared memory. `wide`: scales are float32.
template <class F, int tiles, bool in_block, bool wide>
__global__ void __launch_bounds__(kReadyThreads, tiles <= 2 ? 2 : 1)
    affine_rows(const __grid_constant__ FewRowsArgs a, AffineRowsGrid grid) {
  extern __shared__ __align__(16) char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int k_warps = grid.k_warps, groups = kWarps / k_warps;
  const int group = warp / k_warps, k_warp = warp % k_warps;
  const int group_threads = 32 * k_warps, thread = threadIdx.x % group_threads;
  const int parts = a.exact ? 2 : 1, x_rows = a.M * parts;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_range = ranges.n * k_warp / k_warps;
  const int first_step = first_range * ranges.length;
  const int end_step =
      min(ranges.n * (k_warp + 1) / k_warps * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  const unsigned scale_bytes = static_cast<unsigned>(a.K) / F::group * (wide ? 4 : 2);

  const auto place_of = [&](int tile) {
    const int which = a.glu ? 0 : product_of_tile(a, tile);
    return Place{tile, which, (tile - a.products[which].first_tile) * kTileRows};
  };
  const auto after = [&](const Place& p) {
    if (a.glu && p.which == 0) return Place{p.tile, 1, p.row};
    return place_of(p.tile + static_cast<int>(gridDim.x) * groups);
  };
  const auto rows_of_lane = [&](const Place& p) {
    const FewRowsProduct& product = a.products[p.which];
    const int row = p.row + r;
    const int rows[2] = {min(row, product.N - 1), min(row + 8, product.N - 1)};
    return LaneRows<F>(product, rows, row_bytes, scale_bytes);
  };
  const auto fetch_ahead = [&](const Place& p) {
    if (thread != 0 || p.tile >= grid.n_tiles) return;
    const FewRowsProduct& product = a.products[p.which];
    const int rows = min(kTileRows, product.N - p.row);
    prefetch(product.w + static_cast<std::int64_t>(p.row) * row_bytes,
             rows * row_bytes);
    for (const void* scales : {product.scales, product.biases})
      prefetch(static_cast<const char*>(scales) +
                   static_cast<std::int64_t>(p.row) * scale_bytes,
               rows * scale_bytes);
  };
  const auto wait_for_group = [&] {
    if (k_warps == 1)
      __syncwarp();
    else
      asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "r"(group_threads) : "memory");
  };

  Place here = place_of(static_cast<int>(blockIdx.x) * groups + group);
  const bool has_tile = here.tile < grid.n_tiles;
  if (!has_tile) here = place_of(0);
  // Where loads are, two steps ahead of the sums.
  Place coming = here;
  LaneRows<F> at = rows_of_lane(here);
  int coming_step = first_step;
  const bool has_steps = has_tile && first_step < end_step;
  const auto load_next = [&](Step<F, wide>& step) {
    if (coming.tile >= grid.n_tiles) return;
    step.load(a, at, t, coming_step * F::step);
    if (++coming_step < end_step) return;
    coming_step = first_step;
    coming = after(coming);
    if (coming.tile < grid.n_tiles) at = rows_of_lane(coming);
    fetch_ahead(after(coming));
  };
  Step<F, wide> even, odd;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (has_tile) {
    fetch_ahead(here);
    fetch_ahead(after(here));
  }
  if (has_steps) {
    load_next(even);
    load_next(odd);
  }
  // The sums of ranges, two turns of [ranges][tiles][32] for each group.
  const int of_turn = ranges.n * tiles * 32;
  auto* sums = reinterpret_cast<float2*>(shared) + 2 * group * of_turn;
  ReadyX x(in_block ? static_cast<void*>(shared + sizeof(float2) * 2 * groups * of_turn)
                    : a.scratch,
           x_rows, grid.n_groups, F::group);
  if constexpr (in_block) {
    const float* weight = nullptr;
    if (a.norm_weight) {
      auto* copy = x.squares + x_rows * kReadyWarps;
      start_copy<kReadyThreads>(copy, a.norm_weight, a.K * sizeof(float));
      end_copies();
      wait_for_copies<0>();
      __syncthreads();
      weight = copy;
    }
    wait_for_inputs();
    for (int m = 0; m < a.M; ++m) {
      const float* row = a.x + static_cast<std::int64_t>(m) * a.K;
      float square = 0;
      for (int i = threadIdx.x / 4; i < grid.n_groups; i += kReadyThreads / 4)
        square += make_ready<F>(row, weight, a.K, x, m * parts, i, parts);
      if (weight) x.keep_squares(m * parts, square);
    }
    __syncthreads();
  } else {
    wait_for_inputs();
  }
  if (!has_tile) return;

  // Of rows that are not there some other's values do: their sums go nowhere.
  int x_at[tiles], x_sums[tiles];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    const int column_row = min(n * 4 + r / 2, x_rows - 1);
    x_at[n] = (column_row * grid.n_groups * 2 + r % 2) * F::group + t * F::quarter;
    x_sums[n] = min(n * 4 + t, x_rows - 1) * grid.n_groups;
  }

  float y[tiles][2] = {};
  LaneRows<F> of_sums = at;  // for scales that are read at their use
  const auto add = [&](const Step<F, wide>& step, int step_index) {
    const int begin = step_index * F::step;
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
        scale[h] = step.scale(a, step.scales[h], of_sums.scales(h), begin, g);
        bias[h] = step.scale(a, step.biases[h], of_sums.biases(h), begin, g);
      }
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        const float2 s = x.sums[x_sums[n] + step_index * F::groups + g];
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
  const auto end_range = [&](int range) {
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      sums[turn * of_turn + (range * tiles + n) * 32 + lane] =
          make_float2(y[n][0], y[n][1]);
      y[n][0] = y[n][1] = 0;
    }
  };
  // The ranges' sums for one of a tile's rows and a row of x, and the bias.
  const auto total = [&](const float2* of_ranges, const FewRowsProduct& product,
                         int row, int of_tile, int m) {
    float sum = 0;
    for (int x_row = m * parts; x_row < (m + 1) * parts; ++x_row) {
      const float2* from = of_ranges + x_row / 4 * 32 + of_tile % 8 * 4 + x_row % 4;
      for (int range = 0; range < ranges.n; ++range) {
        const float2 v = from[range * tiles * 32];
        sum += of_tile < 8 ? v.x : v.y;
      }
    }
    if (a.norm_weight) sum *= x.norm_factor(m * parts, a.K, a.norm_eps);
    if (product.bias) sum += float_at(product.bias, row, product.bias_type);
    return sum;
  };
  // The residual of a thread's first result is read before the sums are.
  float residual = 0;
  const auto read_residual = [&](const Place& p) {
    const FewRowsProduct& product = a.products[p.which];
    const int row = p.row + thread % kTileRows, m = thread / kTileRows;
    if (product.residual && m < a.M && row < product.N)
      residual = product.residual[static_cast<std::int64_t>(m) * product.N + row];
  };
  const auto end_tile = [&](const Place& p) {
    const float2* mine = sums + turn * of_turn;
    turn ^= 1;
    wait_for_group();
    if (a.glu && p.which == 0) return;  // its sums wait for the other product's
    const FewRowsProduct& product = a.products[p.which];
    for (int i = thread; i < kTileRows * a.M; i += group_threads) {
      const int of_tile = i % kTileRows, m = i / kTileRows, row = p.row + of_tile;
      if (row >= product.N) continue;
      float sum = total(mine, product, row, of_tile, m);
      if (a.glu)
        sum *= gate_value(a.gate,
                          total(sums + turn * of_turn, a.products[0], row, of_tile, m));
      const std::int64_t to = static_cast<std::int64_t>(m) * product.N + row;
      if (product.residual) sum += i == thread ? residual : product.residual[to];
      product.y[to] = sum;
    }
    if (a.glu) wait_for_group();  // both turns' sums have been read
  };

  read_residual(here);
  const auto end_of = [&] {
    end_tile(here);
    here = after(here);
    if (here.tile >= grid.n_tiles) return false;
    read_residual(here);
    if constexpr (wide) of_sums = rows_of_lane(here);
    return true;
  };
  if (!has_steps) {  // a warp too many
    while (end_of()) {
    }
    return;
  }
  if constexpr (wide) of_sums = rows_of_lane(here);
  // One step after another, of this tile and the next: while the codes of one are in
  // registers, those of the other come.
  int step = first_step, range = first_range, left = ranges.length;
  const auto one_step = [&](Step<F, wide>& now) {
    add(now, step);
    load_next(now);
    const bool ends = ++step == end_step;
    if (--left == 0 || ends) {
      end_range(range++);
      left = ranges.length;
    }
    if (!ends) return true;
    step = first_step, range = first_range, left = ranges.length;
    return end_of();
  };
  while (one_step(even) && one_step(odd)) {
  }
}

template <class F, int tiles, bool in_block, bool wide>
void start_affine_rows(FewRowsArgs args, int n_groups, const Launcher& launch) {
  constexpr auto kernel = affine_rows<F, tiles, in_block, wide>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  AffineRowsGrid grid{n_groups, 0, 0};
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = args.glu ? 0 : grid.n_tiles;
    if (i == 0 || !args.glu)
      grid.n_tiles += (args.products[i].N + kTileRows - 1) / kTileRows;
  }
  const Ranges ranges = Ranges::of<F>(args.K);
  std::size_t of_x = 0;
  if (in_block) {
    of_x = ReadyX::size(args.M * (args.exact ? 2 : 1), n_groups, F::group);
    if (args.norm_weight) of_x += args.K * sizeof(float);
  }
  const auto shared = [&](int k_warps) {
    return of_x + sizeof(float2) * 2 * (kWarps / k_warps) * ranges.n * tiles * 32;
  };
  // A block to each processor, for the next kernel's finds a place beside it; as many
  // warps to a tile as make the longest group's work the least: steps, and half of one
  // for each tile.
  const int at_once = processors();
  double least = 0;
  for (int k_warps = std::max(2, tiles / 2); k_warps <= kWarps; k_warps *= 2) {
    if (grid.k_warps > 0 && k_warps >= 2 * ranges.n) break;
    const int all_groups = at_once * (kWarps / k_warps);
    const int rounds = (grid.n_tiles + all_groups - 1) / all_groups;
    const int of_warp = (ranges.n + k_warps - 1) / k_warps * ranges.length;
    const double work = rounds * (of_warp + 0.5);
    if (grid.k_warps > 0 && work >= least) continue;
    least = work;
    grid.k_warps = k_warps;
  }
  const int groups = kWarps / grid.k_warps;
  const int blocks = std::min((grid.n_tiles + groups - 1) / groups, at_once);
  void* arguments[] = {&args, &grid};
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(blocks), 1, 1, kReadyThreads, shared(grid.k_warps)},
         arguments);
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
