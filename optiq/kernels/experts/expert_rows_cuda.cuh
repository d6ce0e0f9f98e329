// Rows of x by the matrices of their experts, bound by the bytes of those in use.
//
// A block takes sixteen rows of one expert's matrix, or of both of a gated pair. It
// looks for the pairs of its expert among all, brings their rows of x as whole numbers
// into shared memory (ready_rows.cuh), four at a time, and its warps share K as the
// ranges of affine_rows_cuda.cuh, whose sums are added in the same order.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "optiq/kernels/experts/expert_rows_args.cuh"
#include "optiq/kernels/experts/experts_cuda.h"
#include "optiq/kernels/linear/step_sums.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kExpertWarps = 4, kExpertThreads = 32 * kExpertWarps;
inline constexpr int kExpertTileRows = 16;
inline constexpr XForm kExpertForm = XForm::kBytes;
inline constexpr int kRowsOfX = 4;  // of a tile of it
inline constexpr int kMostRanges = 8;

/// Shared memory of a block: of pairs, sums, and x behind them.
struct ExpertMemory {
  std::int32_t pairs[kMostPairs];
  int n_pairs;
  alignas(16) float2 sums[2][kMostRanges][33];
};

/// The pairs of an expert, in their order, by the first warp.
__device__ inline void find_pairs(const ExpertRowsArgs& a, int expert,
                                  ExpertMemory& memory) {
  const unsigned lane = threadIdx.x % 32;
  int found = 0;
  for (int first = 0; first < a.n_pairs; first += 32) {
    const int pair = first + static_cast<int>(lane);
    const bool is = pair < a.n_pairs && a.ids[pair] == expert;
    const unsigned all = __ballot_sync(~0u, is);
    if (is) memory.pairs[found + __popc(all & ((1u << lane) - 1))] = pair;
    found += __popc(all);
  }
  if (lane == 0) memory.n_pairs = found;
}

/// The expert that the blocks of this rank work for; -1: none. Where there are fewer
/// pairs than experts a rank is a pair, which works for its expert if it is the first.
__device__ inline int expert_of_rank(const ExpertRowsArgs& a, int rank) {
  if (a.n_pairs > a.n_experts) return rank;
  const std::int32_t expert = a.ids[rank];
  bool first = true;
  for (int pair = threadIdx.x % 32; pair < rank; pair += 32)
    first = first && a.ids[pair] != expert;
  return __ballot_sync(~0u, !first) == 0 ? expert : -1;
}

template <class F>
__global__ void __launch_bounds__(kExpertThreads)
    expert_rows(const __grid_constant__ ExpertRowsArgs a) {
  auto& memory = *reinterpret_cast<ExpertMemory*>(dynamic_shared());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  const Ranges ranges = Ranges::of<F>(a.K);
  const int first_range = ranges.n * warp / kExpertWarps;
  const int first_step = first_range * ranges.length;
  const int end_step =
      min(ranges.n * (warp + 1) / kExpertWarps * ranges.length, ranges.steps);
  const unsigned row_bytes = static_cast<unsigned>(a.K) / 8 * F::bits;
  const unsigned scale_bytes = static_cast<unsigned>(a.K) / F::group * 2;
  const int N = a.products[0].N, row = static_cast<int>(blockIdx.x) * kExpertTileRows;
  wait_for_inputs();
  const int expert = expert_of_rank(a, static_cast<int>(blockIdx.y));
  if (expert < 0) return;

  // The expert's steps, of one product and then the other, as one sequence.
  const auto rows_of = [&](int which) {
    FewRowsProduct product = a.products[which];
    const auto from = static_cast<std::int64_t>(expert) * N;
    product.w += from * row_bytes;
    product.scales = static_cast<const char*>(product.scales) + from * scale_bytes;
    product.biases = static_cast<const char*>(product.biases) + from * scale_bytes;
    return LaneRows<F>(product, row + r, row_bytes, scale_bytes);
  };
  const int n_products = a.glu ? 2 : 1, of_product = end_step - first_step;
  const int n_steps = n_products * of_product;
  const LaneRows<F> rows[2] = {rows_of(0), rows_of(a.glu ? 1 : 0)};
  const auto load = [&](Step<F, false>& step, int i) {
    if (i >= n_steps) return;
    const bool second = i >= of_product;
    step.load(a.K, second ? rows[1] : rows[0], t,
              (first_step + i - (second ? of_product : 0)) * F::step);
  };
  Step<F, false> even, odd;
  load(even, 0);
  load(odd, 1);
  if (warp == 0) find_pairs(a, expert, memory);
  __syncthreads();

  const int parts = a.exact ? 2 : 1, at_once = kRowsOfX / parts;
  const int n_groups = ranges.steps * F::groups;
  const ReadyX x(dynamic_shared() + sizeof(ExpertMemory), kRowsOfX, n_groups, F::group);
  for (int first = 0; first < memory.n_pairs; first += at_once) {
    const int n = min(at_once, memory.n_pairs - first);
    for (int m = 0; m < n; ++m) {
      const int of_x = memory.pairs[first + m] / a.pairs_of_row;
      const float* from = a.x + static_cast<std::int64_t>(of_x) * a.K;
      for (int i = threadIdx.x / 4; i < n_groups; i += kExpertThreads / 4)
        a.exact ? make_ready<F, kExpertForm, 2>(from, nullptr, a.K, x, 2 * m, i)
                : make_ready<F, kExpertForm, 1>(from, nullptr, a.K, x, m, i);
    }
    __syncthreads();
    const LaneX<F, kExpertForm> of_pairs(x, n * parts);
    float y[1][2] = {};
    int range = first_range, left = ranges.length, product = 0, step = first_step;
    const auto one_step = [&](Step<F, false>& now, int i) {
      add_step<Operand<F, kExpertForm>>(y, now, step, rows[0], a.scale_type, a.K,
                                        of_pairs);
      load(now, i + 2);
      const bool ends = ++step == end_step;
      if (--left > 0 && !ends) return;
      memory.sums[product][range++][lane] = packed(y[0]);
      y[0][0] = y[0][1] = 0;
      left = ranges.length;
      if (ends) ++product, range = first_range, step = first_step;
    };
    for (int i = 0; i < n_steps; i += 2) {
      one_step(even, i);
      if (i + 1 < n_steps) one_step(odd, i + 1);
    }
    // For the next rows of x, if there are more.
    if (first + at_once < memory.n_pairs) {
      load(even, 0);
      load(odd, 1);
    }
    __syncthreads();
    const auto total = [&](int of, int of_tile, int m) {
      float v[kMostRanges];
#pragma unroll
      for (int i = 0; i < kMostRanges; ++i) {
        v[i] = 0;
        if (i < ranges.n)
          for (int x_row = m * parts; x_row < (m + 1) * parts; ++x_row) {
            const float2 both = memory.sums[of][i][of_tile % 8 * 4 + x_row];
            v[i] += of_tile < 8 ? both.x : both.y;
          }
      }
      return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    };
    const int m = threadIdx.x / kExpertTileRows,
              of_tile = threadIdx.x % kExpertTileRows;
    if (m < n && row + of_tile < N) {
      const std::int64_t to =
          static_cast<std::int64_t>(memory.pairs[first + m]) * N + row + of_tile;
      float sum = total(n_products - 1, of_tile, m);
      if (a.glu) sum *= gate_value(a.gate, total(0, of_tile, m));
      if (a.gated) sum *= gate_value(a.gate, a.gated[to]);
      a.y[to] = sum;
    }
  }
}

template <class F>
void start_expert_rows(ExpertRowsArgs args, const Launcher& launch) {
  static_assert(kRowsOfX * kExpertTileRows <= kExpertThreads);
  const int n_groups = Ranges::of<F>(args.K).steps * F::groups;
  const std::size_t shared =
      sizeof(ExpertMemory) + ReadyX::size(kRowsOfX, n_groups, F::group);
  static const cudaError_t allowed = cudaFuncSetAttribute(
      expert_rows<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory());
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&expert_rows<F>),
         {static_cast<unsigned>((args.products[0].N + kExpertTileRows - 1) /
                                kExpertTileRows),
          static_cast<unsigned>(std::min(args.n_pairs, args.n_experts)), 1,
          kExpertThreads, shared},
         arguments);
}

template <int bits>
void expert_rows_of_bits(const ExpertRowsArgs& args, int group,
                         const Launcher& launch) {
  if (group == 32)
    return start_expert_rows<Format<QuantMode::kAffine, bits, 32>>(args, launch);
  if (group == 64)
    return start_expert_rows<Format<QuantMode::kAffine, bits, 64>>(args, launch);
  start_expert_rows<Format<QuantMode::kAffine, bits, 128>>(args, launch);
}

}  // namespace optiq::kernels::cuda
