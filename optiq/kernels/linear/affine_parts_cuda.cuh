// Rows of x by affine codes where there are too many for every block to keep: up to 32.
//
// The arithmetic is affine_rows_cuda.cuh's, to the same bits. What differs is who does
// it: K is cut into parts of one or more ranges, a block keeps a part of all rows of X
// in shared memory, and each of its warps goes through that part of a tile of W's rows
// by itself. Where there is more than one part the warps that share a tile leave their
// sums in memory, and the last of them adds those in the order of the parts.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/linear/few_rows_args.cuh"
#include "optiq/kernels/linear/parts_plan.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/step_sums.cuh"

namespace optiq::kernels::cuda {

/// What a launch is besides its arguments.
struct AffineParts {
  PartsPlan plan;
  int n_groups;           // of a row of X
  int first_row, x_rows;  // of X, a piece of all
  std::int32_t* arrived;  // [n_tiles]: parts of a tile that are done; zeros
  float2* sums;           // [n_tiles, products of a pair, parts, tiles, 32]
};

/// A part of X in shared memory: a group's bytes of all rows, and the next group's.
template <class F, int tiles>
struct SharedX {
  static constexpr int rows = 4 * tiles, bytes_of_row = 2 * F::group;
  static constexpr int sums_of_group = rows + 1;  // the next group's in other banks
  const std::int8_t* bytes;
  const float2* sums;

  /// `first_group`: of the part; groups are counted from the row's beginning.
  __device__ SharedX(const std::int8_t* b, const float2* s, int first_group)
      : bytes(b - first_group * rows * bytes_of_row),
        sums(s - first_group * sums_of_group) {}

  /// Lane 4 r + t's columns of a group of a step: of tile n the high or low bytes of
  /// row r / 2.
  __device__ void load(int n, int group, std::uint32_t (&to)[F::quarter / 4]) const {
    const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
    const int of_lane = (r / 2 * 2 + r % 2) * F::group + t * F::quarter;
    load_bytes(bytes + of_lane + (group * rows + 4 * n) * bytes_of_row, to);
  }
  /// And the sums of row t.
  __device__ float2 sum(int n, int group) const {
    return sums[group * sums_of_group + 4 * n + threadIdx.x % 4];
  }
};

/// Sums of ranges as they come, added in pairs, and those in pairs.
template <int tiles>
struct PairedSums {
  float waiting[3][tiles][2];
  int n = 0;

  /// The next range's; v becomes what it was added to.
  __device__ void add(float (&v)[tiles][2]) {
    ++n;
#pragma unroll
    for (int level = 0; level < 3; ++level) {
      const bool ends_pair = n % (2 << level) == 0;
#pragma unroll
      for (int i = 0; i < tiles; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          if (ends_pair)
            v[i][h] = waiting[level][i][h] + v[i][h];
          else
            waiting[level][i][h] = v[i][h];
      if (!ends_pair) return;
    }
  }
  /// All of them: v is what the last call made of its own.
  __device__ void total(float (&v)[tiles][2]) {
    bool has = n == 8;
#pragma unroll
    for (int level = 0; level < 3; ++level) {
      if ((n >> level & 1) == 0) continue;
#pragma unroll
      for (int i = 0; i < tiles; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          v[i][h] = has ? waiting[level][i][h] + v[i][h] : waiting[level][i][h];
      has = true;
    }
    n = 0;
  }
};

/// `tiles`: of four rows of X each. `wide`: scales are float32.
template <class F, int tiles, bool wide>
__global__ void __launch_bounds__(kReadyThreads, PartsPlan::blocks_at_once(tiles))
    affine_parts(const __grid_constant__ FewRowsArgs a,
                 const __grid_constant__ AffineParts p) {
  using X = SharedX<F, tiles>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int parts = p.plan.parts;
  const int part = static_cast<int>(blockIdx.x) % parts,
            column = static_cast<int>(blockIdx.x) / parts,
            columns = static_cast<int>(gridDim.x) / parts;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_step = part * p.plan.ranges * ranges.length;
  const int end_step =
      min(min((part + 1) * p.plan.ranges, ranges.n) * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  const unsigned scale_bytes = static_cast<unsigned>(a.K) / F::group * (wide ? 4 : 2);

  // Turns of the warp: its tiles, of a pair one after the other.
  const int of_pair = a.glu ? 1 : 0, n_turns = p.plan.n_tiles << of_pair;
  const auto product_of = [&](int turn) -> int {
    return a.glu ? turn & 1 : product_of_tile(a, turn);
  };
  const auto row_of = [&](int turn) {
    return ((turn >> of_pair) - a.products[product_of(turn)].first_tile) * 16;
  };
  const auto after = [&](int turn) {
    return of_pair && turn % 2 == 0
               ? turn + 1
               : turn + (columns * kReadyWarps << of_pair) - of_pair;
  };
  const auto rows_of_lane = [&](int turn) {
    return LaneRows<F>(a.products[product_of(turn)], row_of(turn) + r, row_bytes,
                       scale_bytes);
  };
  // Behind what registers hold, for a processor with one block alone.
  const auto fetch_ahead = [&](int turn) {
    if (PartsPlan::blocks_at_once(tiles) > 1 || turn >= n_turns) return;
    const FewRowsProduct& product = a.products[product_of(turn)];
    const int row = row_of(turn) + lane % 16;
    if (row >= product.N) return;
    const auto from = static_cast<unsigned>(first_step) * F::step,
               values = static_cast<unsigned>(end_step) * F::step - from;
    if (lane < 16) {
      prefetch(
          product.w + static_cast<std::int64_t>(row) * row_bytes + from / 8 * F::bits,
          min(values / 8 * F::bits, row_bytes - from / 8 * F::bits));
      return;
    }
    constexpr unsigned size = wide ? 4 : 2;
    const unsigned first = from / F::group * size;
    for (const void* scales : {product.scales, product.biases})
      prefetch(static_cast<const char*>(scales) +
                   static_cast<std::int64_t>(row) * scale_bytes + first,
               min(values / F::group * size, scale_bytes - first));
  };

  int here = (column + columns * warp) << of_pair;
  int coming = here, coming_step = first_step;
  LaneRows<F> at = rows_of_lane(here < n_turns ? here : 0);
  const auto load_next = [&](Step<F, wide>& step) {
    if (coming >= n_turns) return;
    step.load(a.K, at, t, coming_step * F::step);
    if (++coming_step < end_step) return;
    coming_step = first_step;
    coming = after(coming);
    if (coming < n_turns) at = rows_of_lane(coming);
    fetch_ahead(after(coming));
  };
  // The weights, which no kernel writes, are under way while X comes.
  Step<F, wide> even, odd;
  fetch_ahead(here);
  fetch_ahead(after(here));
  load_next(even);
  load_next(odd);

  // Rows that are not there have any values: their sums go nowhere.
  const int first_group = first_step * F::groups,
            n_groups = (end_step - first_step) * F::groups;
  char* const shared = dynamic_shared();
  auto* const factors = reinterpret_cast<float*>(shared);  // of the norm, [rows]
  auto* const sums = reinterpret_cast<float2*>(factors + X::rows);
  auto* const bytes = reinterpret_cast<std::int8_t*>(
      shared + parts_memory_before_bytes(tiles, n_groups));
  const int halves = a.exact ? 2 : 1;
  wait_for_inputs();
  const ReadyX ready(a.scratch, a.M * halves, p.n_groups, F::group);
  for (int row = warp; row < p.x_rows; row += kReadyWarps) {
    const std::int64_t from =
        static_cast<std::int64_t>(p.first_row + row) * p.n_groups + first_group;
    constexpr int of_group = X::bytes_of_row / 16;
    for (int i = lane; i < n_groups * of_group; i += 32)
      start_copy_or_zero(
          bytes + (i / of_group * X::rows + row) * X::bytes_of_row + i % of_group * 16,
          ready.bytes + from * X::bytes_of_row + i * 16, true);
    for (int g = lane; g < n_groups; g += 32)
      sums[g * X::sums_of_group + row] = ready.sums[from + g];
  }
  end_copies();
  if (a.norm_weight && static_cast<int>(threadIdx.x) * halves < p.x_rows) {
    const float* v = ready.squares + (p.first_row + threadIdx.x * halves) * kReadyWarps;
    const float square =
        ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    factors[threadIdx.x] = rsqrtf(square / static_cast<float>(a.K) + a.norm_eps);
  }
  wait_for_copies<0>();
  __syncthreads();
  const X x(bytes, sums, first_group);

  // Writes what the sums of a lane make: of tile n of X, of two rows of W.
  const auto end_sums = [&](int turn, int n, float2 gates, float2 sums) {
    const FewRowsProduct& product = a.products[product_of(turn)];
    const int x_row = 4 * n + t;
    if (x_row >= p.x_rows || t % halves != 0) return;
    const auto end = [&](float gate, float sum, int row) {
      if (row >= product.N) return;
      const auto total = [&](float v, const FewRowsProduct& from) {
        if (a.norm_weight) v *= factors[x_row / halves];
        if (from.bias) v += float_at(from.bias, row, from.bias_type);
        return v;
      };
      sum = total(sum, product);
      if (a.glu) sum *= gate_value(a.gate, total(gate, a.products[0]));
      const std::int64_t to =
          static_cast<std::int64_t>((p.first_row + x_row) / halves) * product.N + row;
      if (product.residual) sum += product.residual[to];
      product.y[to] = sum;
    };
    const int row = row_of(turn) + r;
    end(gates.x, sums.x, row);
    end(gates.y, sums.y, row + 8);
  };
  // A tile's sums in memory: of a product of a pair, by a part.
  const auto sums_at = [&](int turn, int which, int of_part) {
    const std::int64_t i =
        (static_cast<std::int64_t>(turn >> of_pair) * (1 + of_pair) + which) * parts +
        of_part;
    return p.sums + i * (tiles * 32) + lane;
  };
  // True for the last of the warps that share a tile: all sums are there.
  const auto is_last = [&](int turn) {
    __threadfence();
    __syncwarp();
    const bool last =
        lane == 0 && atomicAdd(p.arrived + (turn >> of_pair), 1) == parts - 1;
    if (__ballot_sync(~0u, last) == 0) return false;
    __threadfence();
    if (lane == 0) p.arrived[turn >> of_pair] = 0;
    return true;
  };
  const auto of_parts = [&](int turn, int which, int n) {
    float2 v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      v[i] = i < parts ? __ldcg(sums_at(turn, which, i) + n * 32) : make_float2(0, 0);
    const auto sum = [](float2 left, float2 right) {
      return make_float2(left.x + right.x, left.y + right.y);
    };
    return sum(sum(sum(v[0], v[1]), sum(v[2], v[3])),
               sum(sum(v[4], v[5]), sum(v[6], v[7])));
  };
  // Sums of more parts than one, and of gates until their pair is done, go by memory.
  const auto end_tile = [&](int turn, const float(&y)[tiles][2]) {
    const bool waits = a.glu && turn % 2 == 0;
    if (waits || parts > 1) {
      float2* const to = sums_at(turn, turn & of_pair, part);
#pragma unroll
      for (int n = 0; n < tiles; ++n) to[n * 32] = make_float2(y[n][0], y[n][1]);
      if (waits || !is_last(turn)) return;
#pragma unroll 1
      for (int n = 0; n < tiles; ++n)
        end_sums(turn, n, a.glu ? of_parts(turn, 0, n) : make_float2(0, 0),
                 of_parts(turn, of_pair, n));
      return;
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n)
      end_sums(turn, n, a.glu ? of_parts(turn, 0, n) : make_float2(0, 0),
               make_float2(y[n][0], y[n][1]));
  };

  float y[1][tiles][2] = {};
  PairedSums<tiles> of_ranges;
  LaneRows<F> of_sums = rows_of_lane(here < n_turns ? here : 0);
  int step = first_step, left = ranges.length;
  // One step after another, of this tile and the next: while the codes of one are in
  // registers, those of the other come.
  const auto one_step = [&](Step<F, wide>& now) {
    add_step<F>(y, now, step, of_sums, a.scale_type, a.K, x);
    load_next(now);
  };
  // What ends a range and a tile is long, and stands once for both.
  for (bool of_odd = false; here < n_turns; of_odd = !of_odd) {
    of_odd ? one_step(odd) : one_step(even);
    const bool ends = ++step == end_step;
    if (--left > 0 && !ends) continue;
    left = ranges.length;
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (halves == 2) y[0][n][h] += __shfl_xor_sync(~0u, y[0][n][h], 1);
    of_ranges.add(y[0]);
    if (ends) {
      of_ranges.total(y[0]);
      end_tile(here, y[0]);
      step = first_step;
      here = after(here);
      if constexpr (wide)
        if (here < n_turns) of_sums = rows_of_lane(here);
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n) y[0][n][0] = y[0][n][1] = 0;
  }
}

template <class F, int tiles, bool wide>
void start_affine_parts(const FewRowsArgs& call, const AffineParts& piece,
                        const Launcher& launch) {
  FewRowsArgs args = call;
  AffineParts parts = piece;
  constexpr auto kernel = affine_parts<F, tiles, wide>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory());
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  void* arguments[] = {&args, &parts};
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(parts.plan.columns * parts.plan.parts), 1, 1,
          kReadyThreads, parts.plan.shared_bytes},
         arguments);
}

/// Products of x made ready in their scratch, as many rows at once as fit.
template <class F>
void affine_parts_of(FewRowsArgs args, const Launcher& launch) {
  const auto problem = PartsProblem::of<F>(args);
  const int tiles = tiles_at_once(problem);
  AffineParts parts{};
  parts.plan = plan_parts(problem, tiles);
  if (parts.plan.parts == 0)
    throw std::runtime_error("expected shared memory for four rows of x, found less");
  const PartsScratch places(problem);
  char* const scratch = static_cast<char*>(args.scratch);
  parts.n_groups = problem.n_groups();
  parts.arrived = reinterpret_cast<std::int32_t*>(scratch + places.arrived);
  parts.sums = reinterpret_cast<float2*>(scratch + places.sums);
  int first_tile = 0;
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = args.glu ? 0 : first_tile;
    first_tile += (args.products[i].N + kTileRows - 1) / kTileRows;
  }
  const bool wide = args.scale_type == FloatType::kF32;
  for (; parts.first_row < problem.x_rows; parts.first_row += 4 * tiles) {
    parts.x_rows = std::min(problem.x_rows - parts.first_row, 4 * tiles);
    const auto start = wide         ? start_affine_parts<F, 1, true>
                       : tiles == 1 ? start_affine_parts<F, 1, false>
                       : tiles == 2 ? start_affine_parts<F, 2, false>
                       : tiles == 4 ? start_affine_parts<F, 4, false>
                                    : start_affine_parts<F, 8, false>;
    start(args, parts, launch);
  }
}

}  // namespace optiq::kernels::cuda
