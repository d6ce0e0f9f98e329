// Rows of x by affine codes where there are too many for every block to keep: up to 32.
//
// K is cut into parts of one or more ranges, a block keeps a part of all rows of X in
// shared memory, and each of its warps goes through that part of a tile of W's rows by
// itself. Where there is more than one part the warps that share a tile leave their
// sums in memory, and the last of them adds those in the order of the parts.
//
// Up to kMostByteRows rows meet codes as bytes, as in affine_rows_cuda.cuh and to the
// same bits; more of them as halves (operand.cuh).
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
  int n_turns;            // n_tiles, twice where gates are joined
  int n_groups;           // of a row of X
  int first_row, x_rows;  // of X, a piece of all
  std::int32_t* arrived;  // [n_tiles]: parts of a tile that are done; zeros
  void* sums;             // PackedSums [n_tiles, products of a pair, parts, tiles, 32]
};

/// A part of X in shared memory: piece by piece of all columns, so that lanes read side
/// by side.
template <class X, int tiles>
struct SharedX {
  static constexpr int rows = X::rows * tiles, columns = kColumns * tiles;
  static constexpr int sums_of_group = padded_sums(rows);
  static constexpr int group_bytes = columns * X::column_bytes;
  const char* values;  // [groups, pieces, columns, 4, piece]
  const float2* of_sums;

  /// `first_group`: of the part; groups are counted from the row's beginning.
  __device__ SharedX(const char* v, const float2* s, int first_group)
      : values(v - first_group * group_bytes + at(threadIdx.x % 32 / 4, 0, 0) +
               X::at(0, threadIdx.x % 4)),
        of_sums(s - first_group * sums_of_group + X::rows_of_lane * (threadIdx.x % 4)) {
  }

  /// Where piece p of a column's first quarter lies.
  static __device__ int at(int column, int group, int p) {
    return group * group_bytes + (p * columns + column) * 4 * X::piece;
  }
  /// What LaneX does.
  __device__ void load(int n, int group, int p, std::uint32_t (&to)[X::words]) const {
    load_words(values + at(kColumns * n, group, p), to);
  }
  __device__ void sums(int n, int group, float2 (&to)[X::rows_of_lane]) const {
    const float2* from = of_sums + group * sums_of_group + X::rows * n;
    if constexpr (X::rows_of_lane == 1) {
      to[0] = *from;
    } else {
      const auto v = *reinterpret_cast<const float4*>(from);
      to[0] = make_float2(v.x, v.y), to[1] = make_float2(v.z, v.w);
    }
  }
};

/// Sums of a warp's ranges as they come, added in pairs, and those in pairs: what waits
/// for its pair does so in shared memory.
template <int tiles, int n_sums>
class PairedSums {
 public:
  using Packed = PackedSums<n_sums>;

  /// `waiting`: the warp's, [levels, tiles, 32].
  __device__ PairedSums(Packed* waiting, int levels)
      : waiting_(waiting + threadIdx.x % 32), levels_(levels) {}

  /// The next range's; v becomes what it was added to.
  __device__ void add(float (&v)[tiles][n_sums]) {
    ++done_;
    for (int level = 0; level < levels_; ++level) {
      if (done_ % (2 << level) != 0) {
#pragma unroll
        for (int n = 0; n < tiles; ++n) at(level, n) = packed(v[n]);
        return;
      }
      add_waiting(v, level);
    }
  }
  /// All of them: v is what the last call made of its own.
  __device__ void total(float (&v)[tiles][n_sums]) {
    bool has = done_ == 1 << levels_;
    for (int level = 0; level < levels_; ++level) {
      if ((done_ >> level & 1) == 0) continue;
      if (!has)
#pragma unroll
        for (int n = 0; n < tiles; ++n)
#pragma unroll
          for (float& sum : v[n]) sum = 0;
      add_waiting(v, level);
      has = true;
    }
    done_ = 0;
  }

 private:
  __device__ Packed& at(int level, int n) { return waiting_[(level * tiles + n) * 32]; }
  __device__ void add_waiting(float (&v)[tiles][n_sums], int level) {
#pragma unroll
    for (int n = 0; n < tiles; ++n) add_before(at(level, n), v[n]);
  }

  Packed* waiting_;
  int levels_, done_ = 0;
};

/// `tiles`: of X. `wide`: scales are float32.
template <class X_, int tiles, bool wide>
__global__ void __launch_bounds__(32 * parts_warps(X_::form), parts_blocks(X_::form))
    affine_parts(const __grid_constant__ FewRowsArgs a,
                 const __grid_constant__ AffineParts p) {
  using X = X_;
  using F = typename X::Format;
  using InShared = SharedX<X, tiles>;
  using Packed = PackedSums<X::sums>;
  constexpr int steps_ahead = X::bytes ? 2 : 1;  // as many as registers hold
  constexpr int warps = parts_warps(X::form);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const int parts = p.plan.parts;
  const int part = blockIdx.x, column = blockIdx.y, columns = gridDim.y;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_step = part * p.plan.ranges * ranges.length;
  const int end_step =
      min(min((part + 1) * p.plan.ranges, ranges.n) * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  constexpr unsigned scale_size = wide ? sizeof(float) : LaneRows<F>::scale_size;
  const unsigned scale_bytes = static_cast<unsigned>(a.K) / F::group * scale_size;

  // Turns of the warp: its tiles, of a pair one after the other.
  const int of_pair = a.glu ? 1 : 0;
  const auto product_of = [&](int turn) -> int {
    return a.glu ? turn & 1 : product_of_tile(a, turn);
  };
  const auto row_of = [&](int turn) {
    return ((turn >> of_pair) - a.products[product_of(turn)].first_tile) * kTileRows;
  };
  const auto after = [&](int turn) {
    return of_pair && turn % 2 == 0 ? turn + 1
                                    : turn + (columns * warps << of_pair) - of_pair;
  };
  const auto rows_of_lane = [&](int turn) {
    return LaneRows<F>(a.products[product_of(turn)], row_of(turn) + r, row_bytes,
                       scale_bytes);
  };

  int here = (column + columns * warp) << of_pair;
  // Where loads are, ahead of the sums.
  int coming = here, coming_step = first_step;
  LaneRows<F> at = rows_of_lane(here < p.n_turns ? here : 0);
  const auto load_next = [&](Step<F, wide>& step) {
    if (coming >= p.n_turns) return;
    step.template load<!X::bytes>(a.K, at, t, coming_step * F::step);
    if (++coming_step < end_step) return;
    coming_step = first_step;
    coming = after(coming);
    if (coming < p.n_turns) at = rows_of_lane(coming);
  };
  // The weights, which no kernel writes, are under way while X comes.
  Step<F, wide> steps[steps_ahead];
#pragma unroll
  for (Step<F, wide>& step : steps) load_next(step);

  // Rows that are not there have any values: their sums go nowhere.
  const int first_group = first_step * F::groups,
            n_groups = (end_step - first_step) * F::groups;
  char* const shared = dynamic_shared();
  auto* const factors = reinterpret_cast<float*>(shared);  // of the norm, [rows]
  auto* const sums = reinterpret_cast<float2*>(factors + InShared::rows);
  const int levels = p.plan.levels(), of_warp = levels * tiles * 32;
  auto* const waiting = reinterpret_cast<Packed*>(
      shared + parts_memory_before_sums(InShared::rows, n_groups));
  auto* const values = reinterpret_cast<char*>(waiting + warps * of_warp);
  const int halved = X::bytes && a.exact ? 1 : 0;  // two rows of X to each of x
  wait_for_inputs();
  const ReadyX ready(a.scratch, a.M << halved, p.n_groups, F::group);
  for (int row = warp; row < p.x_rows; row += warps) {
    const std::int64_t from =
        static_cast<std::int64_t>(p.first_row + row) * p.n_groups + first_group;
    for (int i = lane; i < n_groups * (X::row_bytes / 16); i += 32) {
      // Sixteen bytes of a column, of one quarter or of two.
      const int group = i / (X::row_bytes / 16), in_row = i % (X::row_bytes / 16) * 16;
      const int column = row * X::columns_of_row + in_row / X::column_bytes,
                piece = in_row % X::column_bytes / X::piece;
      start_copy_or_zero(
          values + InShared::at(column, group, piece / 4) + X::at(0, piece % 4),
          ready.values + from * X::row_bytes + i * 16, true);
    }
    for (int g = lane; g < n_groups; g += 32)
      start_copy_of_8(sums + g * InShared::sums_of_group + row, ready.sums + from + g);
  }
  end_copies();
  if (a.norm_weight && static_cast<int>(threadIdx.x) << halved < p.x_rows)
    factors[threadIdx.x] = ready.norm_factor(a, p.first_row + (threadIdx.x << halved));
  wait_for_copies<0>();
  __syncthreads();
  const InShared x(values, sums, first_group);

  // Writes what the sums of a lane make: of tile n of X, of two rows of W.
  const auto end_sums = [&](int turn, int n, const float(&gates)[X::sums],
                            const float(&sums)[X::sums]) {
    const FewRowsProduct& product = a.products[product_of(turn)];
#pragma unroll
    for (int i = 0; i < X::sums; ++i) {
      const int row = row_of(turn) + r + 8 * (i / X::rows_of_lane);
      const int x_row = X::rows * n + X::rows_of_lane * t + i % X::rows_of_lane;
      if (row >= product.N || x_row >= p.x_rows || (x_row & halved) != 0) continue;
      const auto total = [&](float v, const FewRowsProduct& from) {
        if (a.norm_weight) v *= factors[x_row >> halved];
        if (from.bias) v += float_at(from.bias, row, from.bias_type);
        return v;
      };
      float sum = total(sums[i], product);
      if (a.glu) sum *= gate_value(a.gate, total(gates[i], a.products[0]));
      const std::int64_t to =
          static_cast<std::int64_t>((p.first_row + x_row) >> halved) * product.N + row;
      if (product.residual) sum += product.residual[to];
      product.y[to] = sum;
    }
  };
  // A tile's sums in memory: of a product of a pair, by a part.
  const auto sums_at = [&](int turn, int which, int of_part) {
    const std::int64_t i =
        (static_cast<std::int64_t>(turn >> of_pair) * (1 + of_pair) + which) * parts +
        of_part;
    return static_cast<Packed*>(p.sums) + i * (tiles * 32) + lane;
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
  // The sum of all parts', four at a time: more would cost what lives meanwhile its
  // registers.
  const auto of_parts = [&](int turn, int which, int n, float(&to)[X::sums]) {
#pragma unroll 1
    for (int first = 0; first < parts; first += 4) {
      float v[4][X::sums] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (first + i < parts)
          unpack(__ldcg(sums_at(turn, which, first + i) + n * 32), v[i]);
#pragma unroll
      for (int i = 0; i < X::sums; ++i) {
        const float sum = (v[0][i] + v[1][i]) + (v[2][i] + v[3][i]);
        to[i] = first == 0 ? sum : to[i] + sum;
      }
    }
  };
  // A tile's sums go by memory, those of gates until their pair is done, and leave
  // their registers at once.
  const auto end_tile = [&](int turn, const float(&y)[tiles][X::sums]) {
    Packed* const to = sums_at(turn, turn & of_pair, part);
#pragma unroll
    for (int n = 0; n < tiles; ++n) to[n * 32] = packed(y[n]);
    if ((a.glu && turn % 2 == 0) || (parts > 1 && !is_last(turn))) return;
#pragma unroll 1
    for (int n = 0; n < tiles; ++n) {
      float sums[X::sums], gates[X::sums] = {};
      of_parts(turn, of_pair, n, sums);
      if (a.glu) of_parts(turn, 0, n, gates);
      end_sums(turn, n, gates, sums);
    }
  };

  float y[tiles][X::sums] = {};
  PairedSums<tiles, X::sums> of_ranges(waiting + warp * of_warp, levels);
  LaneRows<F> of_sums = rows_of_lane(here < p.n_turns ? here : 0);
  int step = first_step, left = ranges.length;
  const auto one_step = [&](Step<F, wide>& now) {
    add_step<X>(y, now, step, of_sums, a.scale_type, a.K, x);
    load_next(now);
  };
  // What ends a range and a tile is long, and stands once for all steps.
  for (bool odd = false; here < p.n_turns; odd = !odd) {
    if constexpr (steps_ahead == 1)
      one_step(steps[0]);
    else
      odd ? one_step(steps[1]) : one_step(steps[0]);
    const bool ends = ++step == end_step;
    if (--left > 0 && !ends) continue;
    left = ranges.length;
    if constexpr (X::bytes)
      if (a.exact)
#pragma unroll
        for (int n = 0; n < tiles; ++n)
#pragma unroll
          for (float& sum : y[n]) sum += __shfl_xor_sync(~0u, sum, 1);
    of_ranges.add(y);
    if (ends) {
      of_ranges.total(y);
      end_tile(here, y);
      step = first_step;
      here = after(here);
      if constexpr (wide)
        if (here < p.n_turns) of_sums = rows_of_lane(here);
    }
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (float& sum : y[n]) sum = 0;
  }
}

template <class X, int tiles, bool wide>
void start_affine_parts(const FewRowsArgs& call, const AffineParts& piece,
                        const Launcher& launch) {
  FewRowsArgs args = call;
  AffineParts parts = piece;
  constexpr auto kernel = affine_parts<X, tiles, wide>;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory());
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  void* arguments[] = {&args, &parts};
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(parts.plan.parts),
          static_cast<unsigned>(parts.plan.columns), 1, 32 * parts_warps(X::form),
          parts.plan.shared_bytes},
         arguments);
}

/// Products of x made ready in their scratch, as many rows at once as fit.
template <class F, XForm form>
void affine_parts_of(FewRowsArgs args, const Launcher& launch) {
  using X = Operand<F, form>;
  const auto problem = PartsProblem::of(args, F::bits, F::group);
  const PartsLayout layout(problem);
  const int tiles = layout.tiles;
  AffineParts parts{};
  parts.plan = layout.plan;
  if (parts.plan.parts == 0)
    throw std::runtime_error("expected shared memory for eight rows of x, found less");
  char* const scratch = static_cast<char*>(args.scratch);
  parts.n_turns = problem.n_tiles * (args.glu ? 2 : 1);
  parts.n_groups = problem.n_groups();
  parts.arrived = reinterpret_cast<std::int32_t*>(scratch + layout.arrived);
  parts.sums = scratch + layout.sums;
  int n_zeros = problem.n_tiles;
  void* arguments[] = {&args, &parts.n_groups, &parts.arrived, &n_zeros};
  const int blocks = (4 * parts.n_groups + kReadyThreads - 1) / kReadyThreads;
  launch(
      reinterpret_cast<const void*>(&ready_rows<F, form>),
      {static_cast<unsigned>(blocks), static_cast<unsigned>(args.M), 1, kReadyThreads},
      arguments);
  int first_tile = 0;
  for (int i = 0; i < args.n_products; ++i) {
    args.products[i].first_tile = args.glu ? 0 : first_tile;
    first_tile += (args.products[i].N + kTileRows - 1) / kTileRows;
  }
  const bool wide = args.scale_type == FloatType::kF32;
  for (; parts.first_row < problem.x_rows; parts.first_row += X::rows * tiles) {
    parts.x_rows = std::min(problem.x_rows - parts.first_row, X::rows * tiles);
    if constexpr (X::bytes) {
      const auto start = wide         ? start_affine_parts<X, 1, true>
                         : tiles == 1 ? start_affine_parts<X, 1, false>
                                      : start_affine_parts<X, 2, false>;
      start(args, parts, launch);
    } else {
      const auto start = tiles <= 2 ? start_affine_parts<X, 2, false>
                                    : start_affine_parts<X, 4, false>;
      start(args, parts, launch);
    }
  }
}

}  // namespace optiq::kernels::cuda
