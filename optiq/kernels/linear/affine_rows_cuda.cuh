// One or two rows of x by affine codes, on tensor cores, bound by the weights' bytes.
// affine_parts_cuda.cuh takes more.
//
// Codes are whole numbers of a byte, and so is x (ready_rows.cuh): mma.m16n8k32 sums
// code X of a group exactly, and each sum is scaled once:
//     y += scale step sum(code X) + bias step sum(X).
// Sixteen rows of W are the product's left side. Its eight columns are four rows of X,
// each with its high and its low bytes side by side, whose two sums lie in one lane.
//
// A group of warps takes a tile of 16 or 32 rows of W: K is cut into ranges, each
// summed for itself, and each warp has one or a few. The sums of ranges are added in
// their order, so that a result depends on K alone: neither on other rows, nor on the
// grid, nor on how many warps there are to a tile. Groups go on from tile to tile,
// reading the next one's first codes before they end the last. Lane 4 r + t has row r
// and r + 8 of the fragment and the t-th quarter of every group of codes; mma sums over
// k in any order, so the order inside a quarter is that in which codes unpack cheapest.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/linear/affine_parts_cuda.cuh"

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/step_sums.cuh"

namespace optiq::kernels::cuda {

/// Fragments of 16 rows of W in a tile, by `tiles` of X, each of which is read for all
/// of them. More rows of X leave no registers for two.
template <int tiles>
inline constexpr int kFragments = tiles == 4 ? 2 : 1;
inline constexpr int kWarps = kReadyWarps;
/// Shared memory that a block may take, beside which there is another or none.
template <int tiles>
int shared_limit() {
  return tiles <= 2 ? shared_memory() / 2 : shared_memory();
}

/// Places for a range's sums by `tiles` of X, one more than there are: the next range's
/// lie in other banks.
template <int tiles>
inline constexpr int kRangeSums = kFragments<tiles>* tiles * 32 + 1;

/// Tiles whose sums a group of warps has at once: those that are read while the next
/// are written.
__host__ __device__ inline int turns_of(const FewRowsArgs& a) { return a.glu ? 4 : 2; }

/// Shared memory of the sums of all groups of a block.
template <int tiles>
__host__ __device__ int sums_bytes(const FewRowsArgs& a, int k_warps, int n_ranges) {
  const int sums = turns_of(a) * (kWarps / k_warps) * n_ranges * kRangeSums<tiles>;
  return (sums * static_cast<int>(sizeof(float2)) + 15) / 16 * 16;
}

/// That of x made ready in a block, and the norm's weight.
inline std::size_t bytes_in_block(const FewRowsArgs& a, int n_groups, int group) {
  return ReadyX::size(a.M, n_groups, group) + (a.norm_weight ? a.K * sizeof(float) : 0);
}

/// What a launch is besides its arguments.
struct AffineRowsGrid {
  int n_groups;  // of a row of X
  int k_warps;   // of a tile: 2, 4 or 8
  int n_tiles;   // of all products; pairs of them where gates are joined
};

/// A tile: of which product, its first row of W.
struct Place {
  int which, row;
};

/// `tiles`: of four rows of X each. `in_block`: every block makes x ready for itself,
/// in shared memory. `wide`: scales are float32.
template <class F, int tiles, bool in_block, bool wide>
__global__ void __launch_bounds__(kReadyThreads, tiles <= 2 ? 2 : 1)
    affine_rows(const __grid_constant__ FewRowsArgs a, AffineRowsGrid grid) {
  char* const shared = dynamic_shared();
  constexpr int kFrags = kFragments<tiles>, kTileRows = 16 * kFrags;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int k_warps = grid.k_warps, groups = kWarps / k_warps;
  const int group = warp / k_warps, k_warp = warp % k_warps;
  const int group_threads = 32 * k_warps, thread = threadIdx.x % group_threads;
  const int parts = !in_block && a.exact ? 2 : 1, x_rows = a.M * parts;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_range = ranges.n * k_warp / k_warps;
  const int first_step = first_range * ranges.length;
  const int end_step =
      min(ranges.n * (k_warp + 1) / k_warps * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  const unsigned scale_bytes = static_cast<unsigned>(a.K) / F::group * (wide ? 4 : 2);

  // Tiles are counted so that both of a pair follow one another.
  const int of_pair = a.glu ? 1 : 0, n_turns = grid.n_tiles << of_pair;
  const auto place_of = [&](int counted) {
    const int tile = counted >> of_pair;
    const int which = a.glu ? counted & 1 : product_of_tile(a, tile);
    return Place{which, (tile - a.products[which].first_tile) * kTileRows};
  };
  const auto after = [&](int counted) {
    return of_pair && counted % 2 == 0
               ? counted + 1
               : counted + (static_cast<int>(gridDim.x * groups) << of_pair) - of_pair;
  };
  const auto rows_of_lane = [&](int counted) {
    const Place p = place_of(counted);
    const FewRowsProduct& product = a.products[p.which];
    return LaneRows<F>(product, p.row + r, row_bytes, scale_bytes);
  };
  // A block alone on its processor has too few loads under way for the memory.
  const auto fetch_ahead = [&](int counted) {
    if (tiles < 4 || thread != 0 || counted >= n_turns) return;
    const Place p = place_of(counted);
    const FewRowsProduct& product = a.products[p.which];
    const int rows = min(kTileRows, product.N - p.row);
    prefetch(product.w + static_cast<std::int64_t>(p.row) * row_bytes,
             rows * row_bytes);
    for (const void* scales : {product.scales, product.biases})
      prefetch(static_cast<const char*>(scales) +
                   static_cast<std::int64_t>(p.row) * scale_bytes,
               rows * scale_bytes);
  };
  const auto wait_for_group = [&] { wait_for_threads(1 + group, group_threads); };

  int here = (static_cast<int>(blockIdx.x) * groups + group) << of_pair;
  const bool has_tile = here < n_turns;
  // Where loads are, two steps ahead of the sums.
  int coming = here;
  LaneRows<F> at = rows_of_lane(has_tile ? here : 0);
  int coming_step = first_step;
  const bool has_steps = has_tile && first_step < end_step;
  const auto load_next = [&](Step<F, wide, 2 * kFrags>& step) {
    if (coming >= n_turns) return;
    step.load(a.K, at, t, coming_step * F::step);
    if (++coming_step < end_step) return;
    coming_step = first_step;
    coming = after(coming);
    if (coming < n_turns) at = rows_of_lane(coming);
    fetch_ahead(after(coming));
  };
  Step<F, wide, 2 * kFrags> even, odd;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (has_tile) {
    fetch_ahead(here);
    fetch_ahead(after(here));
  }
  if (has_steps) {
    load_next(even);
    load_next(odd);
  }
  // The sums of ranges, in turns of [ranges][tiles][32] for each group.
  constexpr int kOfRange = kRangeSums<tiles>;
  const int of_turn = ranges.n * kOfRange, turns = turns_of(a);
  auto* sums = reinterpret_cast<float2*>(shared) + turns * group * of_turn;
  // Behind them a copy of the norm's weight, and x.
  char* memory = shared + sums_bytes<tiles>(a, k_warps, ranges.n);
  auto* weight = in_block && a.norm_weight ? reinterpret_cast<float*>(memory) : nullptr;
  if (weight) memory += a.K * sizeof(float);
  ReadyX x(in_block ? memory : a.scratch, x_rows, grid.n_groups, F::group);
  if constexpr (in_block) {
    if (weight) {
      start_copy<kReadyThreads>(weight, a.norm_weight, a.K * sizeof(float));
      end_copies();
      wait_for_copies<0>();
      __syncthreads();
    }
    wait_for_inputs();
    for (int m = 0; m < a.M; ++m) {
      const float* row = a.x + static_cast<std::int64_t>(m) * a.K;
      float square = 0;
      for (int i = threadIdx.x / 4; i < grid.n_groups; i += kReadyThreads / 4)
        square += make_ready<F, 1>(row, weight, a.K, x, m, i);
      if (weight) x.keep_squares(m, square);
    }
    __syncthreads();
  } else {
    wait_for_inputs();
  }
  if (!has_tile) return;

  const LaneX<F, tiles> rows_of_x(x, x_rows);

  float y[kFrags][tiles][2] = {};
  LaneRows<F> of_sums = at;  // for scales that are read at their use
  const auto add = [&](const Step<F, wide, 2 * kFrags>& step, int step_index) {
    add_step<F>(y, step, step_index, of_sums, a.scale_type, a.K, rows_of_x);
  };

  int turn = 0;
  const auto end_range = [&](int range) {
#pragma unroll
    for (int f = 0; f < kFrags; ++f)
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        sums[turn * of_turn + range * kOfRange + (f * tiles + n) * 32 + lane] =
            make_float2(y[f][n][0], y[f][n][1]);
        y[f][n][0] = y[f][n][1] = 0;
      }
  };
  // Few results are ended by eight lanes each, a range a lane; many by a lane each. The
  // sums of ranges are added in pairs, and those in pairs, either way.
  constexpr int kLanes = tiles == 1 ? 8 : 1;
  const int mine = thread % kLanes;
  const auto of_ranges = [&](auto&& of_range) {
    if constexpr (kLanes == 8) {
      float v = of_range(mine);
      v += __shfl_xor_sync(~0u, v, 1);
      v += __shfl_xor_sync(~0u, v, 2);
      return v + __shfl_xor_sync(~0u, v, 4);
    } else {
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = of_range(i);
      return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
  };
  // The residual of a thread's first result is read before the sums are.
  float residual = 0;
  const auto read_residual = [&](const Place& p) {
    const FewRowsProduct& product = a.products[p.which];
    const int i = thread / kLanes, row = p.row + i % kTileRows, m = i / kTileRows;
    if (product.residual && mine == 0 && m < a.M && row < product.N)
      residual = product.residual[static_cast<std::int64_t>(m) * product.N + row];
  };
  // Ends a tile, or both of a pair whose first waits for its second.
  const auto end_tile = [&](const Place& p) {
    const int at_turn = turn;
    turn = (turn + 1) % turns;
    if (a.glu && p.which == 0) return;
    wait_for_group();  // by which the reads of the turn before are over, too
    const FewRowsProduct& product = a.products[p.which];
    const int n_results = kTileRows * a.M;
    for (int first = 0; first < n_results; first += group_threads / kLanes) {
      const int i = first + thread / kLanes;
      const int of_tile = i % kTileRows, m = i / kTileRows, row = p.row + of_tile;
      const bool is = i < n_results && row < product.N;
      const auto total = [&](int of, const FewRowsProduct& from) {
        float sum = of_ranges([&](int range) {
          float v = 0;
          if (is && range < ranges.n)
            for (int x_row = m * parts; x_row < (m + 1) * parts; ++x_row) {
              const float2 both = sums[of * of_turn + range * kOfRange +
                                       (of_tile / 16 * tiles + x_row / 4) * 32 +
                                       of_tile % 8 * 4 + x_row % 4];
              v += of_tile % 16 < 8 ? both.x : both.y;
            }
          return v;
        });
        if (a.norm_weight) {
          const float square = of_ranges([&](int warp) {
            return is ? x.squares[m * parts * kReadyWarps + warp] : 1.0f;
          });
          sum *= rsqrtf(square / static_cast<float>(a.K) + a.norm_eps);
        }
        if (is && from.bias) sum += float_at(from.bias, row, from.bias_type);
        return sum;
      };
      float sum = total(at_turn, product);
      if (a.glu) sum *= gate_value(a.gate, total(at_turn - 1, a.products[0]));
      if (!is || mine != 0) continue;
      const std::int64_t to = static_cast<std::int64_t>(m) * product.N + row;
      if (product.residual) sum += first == 0 ? residual : product.residual[to];
      product.y[to] = sum;
    }
  };

  read_residual(place_of(here));
  const auto end_of = [&] {
    end_tile(place_of(here));
    here = after(here);
    if (here >= n_turns) return false;
    read_residual(place_of(here));
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
  const auto one_step = [&](Step<F, wide, 2 * kFrags>& now) {
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
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit<tiles>());
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  constexpr int kTileRows = 16 * kFragments<tiles>;
  AffineRowsGrid grid{n_groups, 0, 0};
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = args.glu ? 0 : grid.n_tiles;
    if (i == 0 || !args.glu)
      grid.n_tiles += (args.products[i].N + kTileRows - 1) / kTileRows;
  }
  const Ranges ranges = Ranges::of<F>(args.K);
  const std::size_t of_x = in_block ? bytes_in_block(args, n_groups, F::group) : 0;
  const auto shared = [&](int k_warps) {
    return of_x + sums_bytes<tiles>(args, k_warps, ranges.n);
  };
  // As many warps to a tile as make the longest group's work the least: steps, and half
  // of one for each tile.
  const int at_once = (tiles <= 2 ? 2 : 1) * processors();
  double least = 0;
  for (int k_warps = std::max(2, args.glu ? tiles : tiles / 2); k_warps <= kWarps;
       k_warps *= 2) {
    if (grid.k_warps > 0 && k_warps >= 2 * ranges.n) break;
    if (k_warps < kWarps && shared(k_warps) > std::size_t(shared_limit<tiles>()))
      continue;
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
  const bool wide = args.scale_type == FloatType::kF32;
  // Each block may make a row or two ready for itself, in half of its memory.
  if (!wide && !args.exact && args.M <= 2 &&
      bytes_in_block(args, n_groups, F::group) <= std::size_t(shared_limit<1>()) / 2)
    return start_affine_rows<F, 1, true, false>(args, n_groups, launch);
  const auto problem = PartsProblem::of<F>(args);
  FewRowsArgs copy = args;
  auto* arrived = reinterpret_cast<std::int32_t*>(static_cast<char*>(args.scratch) +
                                                  PartsScratch(problem).arrived);
  int n_tiles = problem.n_tiles;
  void* arguments[] = {&copy, &n_groups, &arrived, &n_tiles};
  const auto blocks =
      static_cast<unsigned>((4 * n_groups + kReadyThreads - 1) / kReadyThreads);
  launch(reinterpret_cast<const void*>(&ready_rows<F>),
         {blocks, static_cast<unsigned>(args.M), 1, kReadyThreads}, arguments);
  affine_parts_of<F>(args, launch);
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
