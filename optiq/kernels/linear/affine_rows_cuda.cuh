// One or two rows of x by affine codes, on tensor cores, bound by the weights' bytes.
// affine_parts_cuda.cuh takes more.
//
// Codes are whole numbers of a byte, and so is x (ready_rows.cuh): mma.m16n8k32 sums
// code X of a group exactly, and each sum is scaled once:
//     y += scale step sum(code X) + bias step sum(X).
// Sixteen rows of W are the product's left side. Its eight columns are four rows of X,
// each with its high and its low bytes side by side, whose two sums lie in one lane.
//
// A group of warps takes a tile of 16 rows of W: K is cut into ranges, each
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

inline constexpr int kWarps = kReadyWarps;
/// Shared memory that a block may take, beside which there is another.
inline int shared_limit() { return shared_memory() / 2; }

inline constexpr int kRowsInBlock = 2;  // of x

/// A range's sums: [8, rows of x, 2], of rows 8 h + r of W.
inline constexpr int kRangeSums = 8 * kRowsInBlock * 2;

/// Tiles whose sums a group of warps has at once: those that are read while the next
/// are written.
__host__ __device__ inline int turns_of(const FewRowsArgs& a) { return a.glu ? 4 : 2; }

/// Shared memory of the sums of all groups of a block.
__host__ __device__ inline int sums_bytes(const FewRowsArgs& a, int k_warps,
                                          int n_ranges) {
  const int sums = turns_of(a) * (kWarps / k_warps) * n_ranges * kRangeSums;
  return sums * static_cast<int>(sizeof(float));
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

/// Every block makes x ready for itself, in shared memory.
template <class F>
__global__ void __launch_bounds__(kReadyThreads, 2)
    affine_rows(const __grid_constant__ FewRowsArgs a, AffineRowsGrid grid) {
  char* const shared = dynamic_shared();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int k_warps = grid.k_warps, groups = kWarps / k_warps;
  const int group = warp / k_warps, k_warp = warp % k_warps;
  const int group_threads = 32 * k_warps;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_range = ranges.n * k_warp / k_warps;
  const int first_step = first_range * ranges.length;
  const int end_step =
      min(ranges.n * (k_warp + 1) / k_warps * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  const unsigned scale_bytes =
      static_cast<unsigned>(a.K) / F::group * LaneRows<F>::scale_size;

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
  const auto wait_for_group = [&] { wait_for_threads(1 + group, group_threads); };

  int here = (static_cast<int>(blockIdx.x) * groups + group) << of_pair;
  const bool has_tile = here < n_turns;
  // Where loads are, two steps ahead of the sums.
  int coming = here;
  LaneRows<F> at = rows_of_lane(has_tile ? here : 0);
  int coming_step = first_step;
  const bool has_steps = has_tile && first_step < end_step;
  const auto load_next = [&](Step<F, false>& step) {
    if (coming >= n_turns) return;
    step.load(a.K, at, t, coming_step * F::step);
    if (++coming_step < end_step) return;
    coming_step = first_step;
    coming = after(coming);
    if (coming < n_turns) at = rows_of_lane(coming);
  };
  Step<F, false> even, odd;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (has_steps) {
    load_next(even);
    load_next(odd);
  }
  // The sums of ranges, in turns of [ranges][kRangeSums] for each group.
  const int of_turn = ranges.n * kRangeSums, turns = turns_of(a);
  auto* sums = reinterpret_cast<float*>(shared) + turns * group * of_turn;
  // Behind them a copy of the norm's weight, and x.
  char* memory = shared + sums_bytes(a, k_warps, ranges.n);
  auto* weight = a.norm_weight ? reinterpret_cast<float*>(memory) : nullptr;
  if (weight) memory += a.K * sizeof(float);
  const ReadyX x(memory, a.M, grid.n_groups, F::group);
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
      square += make_ready<F, XForm::kBytes, 1>(row, weight, a.K, x, m, i);
    if (weight) x.keep_squares(m, square);
  }
  __syncthreads();
  if (!has_tile) return;

  using X = Operand<F, XForm::kBytes>;
  const LaneX<F, XForm::kBytes> rows_of_x(x, a.M);

  float y[1][X::sums] = {};
  int turn = 0;
  const auto end_range = [&](int range) {
    if (t < kRowsInBlock)
      *reinterpret_cast<float2*>(sums + turn * of_turn + range * kRangeSums +
                                 (r * kRowsInBlock + t) * 2) = packed(y[0]);
#pragma unroll
    for (float& v : y[0]) v = 0;
  };
  // A tile's results, a lane each, are ended by one of its warps, by each in turn: what
  // that takes the others do not wait for.
  static_assert(kTileRows * kRowsInBlock == 32);
  const int of_tile = lane % kTileRows, m = lane / kTileRows;
  const float factor = a.norm_weight ? x.norm_factor(a, min(m, a.M - 1)) : 1.0f;
  int ends = 0;  // the warp whose turn it is
  float residual = 0;
  const auto read_residual = [&](const Place& p) {
    const FewRowsProduct& product = a.products[p.which];
    const int row = p.row + of_tile;
    if (product.residual && k_warp == ends && m < a.M && row < product.N)
      residual = product.residual[static_cast<std::int64_t>(m) * product.N + row];
  };
  // Ends a tile, or both of a pair whose first waits for its second.
  const auto end_tile = [&](const Place& p) {
    const int at_turn = turn;
    turn = (turn + 1) % turns;
    if (a.glu && p.which == 0) return;
    wait_for_group();  // by which the reads of the turn before are over, too
    const bool is_mine = k_warp == ends;
    ends = (ends + 1) % k_warps;
    const FewRowsProduct& product = a.products[p.which];
    const int row = p.row + of_tile;
    if (!is_mine || m >= a.M || row >= product.N) return;
    const auto total = [&](int of, const FewRowsProduct& from) {
      const float* at =
          sums + of * of_turn + (of_tile % 8 * kRowsInBlock + m) * 2 + of_tile / 8;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = i < ranges.n ? at[i * kRangeSums] : 0.0f;
      float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
      if (a.norm_weight) sum *= factor;
      if (from.bias) sum += float_at(from.bias, row, from.bias_type);
      return sum;
    };
    float sum = total(at_turn, product);
    if (a.glu) sum *= gate_value(a.gate, total(at_turn - 1, a.products[0]));
    if (product.residual) sum += residual;
    product.y[static_cast<std::int64_t>(m) * product.N + row] = sum;
  };

  read_residual(place_of(here));
  const auto end_of = [&] {
    end_tile(place_of(here));
    here = after(here);
    if (here >= n_turns) return false;
    read_residual(place_of(here));
    return true;
  };
  if (!has_steps) {  // a warp too many
    while (end_of()) {
    }
    return;
  }
  // One step after another, of this tile and the next: while the codes of one are in
  // registers, those of the other come.
  int step = first_step, range = first_range, left = ranges.length;
  const auto one_step = [&](Step<F, false>& now) {
    add_step<X>(y, now, step, at, a.scale_type, a.K, rows_of_x);
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

template <class F>
void start_affine_rows(FewRowsArgs args, int n_groups, const Launcher& launch) {
  constexpr auto kernel = affine_rows<F>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit());
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  AffineRowsGrid grid{n_groups, 0, 0};
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = args.glu ? 0 : grid.n_tiles;
    if (i == 0 || !args.glu)
      grid.n_tiles += (args.products[i].N + kTileRows - 1) / kTileRows;
  }
  const Ranges ranges = Ranges::of<F>(args.K);
  const std::size_t of_x = bytes_in_block(args, n_groups, F::group);
  const auto shared = [&](int k_warps) {
    return of_x + sums_bytes(args, k_warps, ranges.n);
  };
  // As many warps to a tile as make the longest group's work the least: steps, and half
  // of one for each tile.
  const int at_once = 2 * processors();
  double least = 0;
  for (int k_warps = 2; k_warps <= kWarps; k_warps *= 2) {
    if (grid.k_warps > 0 && k_warps >= 2 * ranges.n) break;
    if (k_warps < kWarps && shared(k_warps) > std::size_t(shared_limit())) continue;
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
  const int n_groups = (args.K + F::step - 1) / F::step * F::groups;
  const bool wide = args.scale_type == FloatType::kF32;
  // Each block may make a row or two ready for itself, in half of its memory.
  if (!wide && !args.exact && args.M <= kRowsInBlock &&
      bytes_in_block(args, n_groups, F::group) <= std::size_t(shared_limit()) / 2)
    return start_affine_rows<F>(args, n_groups, launch);
  if (PartsProblem::of(args, F::bits, F::group).form() == XForm::kBytes)
    affine_parts_of<F, XForm::kBytes>(args, launch);
  else
    affine_parts_of<F, XForm::kHalves>(args, launch);
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
