#include "optiq/kernels/experts/sorted_experts_cuda.h"

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/experts/experts_cuda.h"
#include "optiq/kernels/experts/sum_experts.cuh"
#include "optiq/kernels/linear/many_rows_cuda.h"
#include "optiq/kernels/tile_product.cuh"

namespace optiq::kernels::cuda {
namespace {

/// Rows of one expert: places in the sorted order.
struct ExpertTile {
  int expert, first, end;
};

/// What has been sorted, on the device.
struct SortedPairs {
  std::int32_t* order;  // [pairs]: the pair at each place
  ExpertTile* tiles;    // as many as there may be; of those behind the last end is 0
};

int most_tiles(int pairs, int n_experts) {
  return pairs / kTileRows + std::min(pairs, n_experts);
}

struct SortArgs {
  const std::int32_t* ids;
  SortedPairs to;
  int n_pairs, n_experts, n_tiles;
};

// One block. Where pairs of one expert come to lie among each other is left to chance:
// no result depends on it.
__global__ void __launch_bounds__(kMostExperts)
    sort_pairs(const __grid_constant__ SortArgs a) {
  auto* pairs = reinterpret_cast<int*>(dynamic_shared());  // then: the next place
  int* tiles = pairs + kMostExperts;
  int* before = tiles + kMostExperts;  // sums up to each expert, for both
  const int thread = threadIdx.x;
  wait_for_inputs();
  pairs[thread] = 0;
  __syncthreads();
  for (int i = thread; i < a.n_pairs; i += kMostExperts) atomicAdd(&pairs[a.ids[i]], 1);
  __syncthreads();
  const int n = pairs[thread], n_tiles = (n + kTileRows - 1) / kTileRows;
  tiles[thread] = n_tiles;
  for (int* sums : {pairs, tiles})
    for (int step = 1; step < kMostExperts; step *= 2) {
      before[thread] = thread >= step ? sums[thread - step] : 0;
      __syncthreads();
      sums[thread] += before[thread];
      __syncthreads();
    }
  const int first = pairs[thread] - n, first_tile = tiles[thread] - n_tiles;
  const int last_tile = tiles[kMostExperts - 1];
  for (int i = 0; i < n_tiles; ++i)
    a.to.tiles[first_tile + i] = {thread, first + i * kTileRows,
                                  min(first + (i + 1) * kTileRows, first + n)};
  for (int i = last_tile + thread; i < a.n_tiles; i += kMostExperts)
    a.to.tiles[i] = {0, 0, 0};
  __syncthreads();
  pairs[thread] = first;
  __syncthreads();
  for (int i = thread; i < a.n_pairs; i += kMostExperts)
    a.to.order[atomicAdd(&pairs[a.ids[i]], 1)] = i;
}

/// A product of sorted rows with the matrices of their experts.
struct GroupedArgs {
  const std::uint16_t* x;
  const std::uint16_t* w;  // [n_parts, E, N, K]
  std::uint16_t* y;        // [rows, n_parts N]
  SortedPairs sorted;
  int pairs_of_row;  // x [pairs / that, K], in the order of pairs; 0: in places' order
  bool by_pair;      // y lies in the order of pairs, else in that of places
  int n_experts, N, K, n_parts;
};

__global__ void __launch_bounds__(kTileThreads, 2)
    grouped_product(const __grid_constant__ GroupedArgs a) {
  wait_for_inputs();
  const ExpertTile tile = a.sorted.tiles[blockIdx.y];
  if (tile.end == 0) return;
  const int tiles_of_part = (a.N + kTileColumns - 1) / kTileColumns;
  const int part = blockIdx.x / tiles_of_part;
  const int column = blockIdx.x % tiles_of_part * kTileColumns;
  const std::uint16_t* w =
      a.w + (static_cast<std::int64_t>(part) * a.n_experts + tile.expert) * a.N * a.K;
  const auto row_of_x = [&](int i) -> const std::uint16_t* {
    const int place = tile.first + i;
    if (place >= tile.end) return nullptr;
    const int row =
        a.pairs_of_row == 0 ? place : a.sorted.order[place] / a.pairs_of_row;
    return a.x + static_cast<std::int64_t>(row) * a.K;
  };
  const auto row_of_w = [&](int i) {
    return column + i < a.N ? w + static_cast<std::int64_t>(column + i) * a.K : nullptr;
  };
  tile_product(row_of_x, row_of_w, a.K, [&](int i, int n, float first, float second) {
    const int place = tile.first + i;
    if (place >= tile.end || column + n >= a.N) return;
    const std::int64_t row = a.by_pair ? a.sorted.order[place] : place;
    *reinterpret_cast<std::uint32_t*>(a.y + row * a.n_parts * a.N + part * a.N +
                                      column + n) = narrow(first, second);
  });
}

// Where a call's memory lies, each part at a multiple of 16 bytes.
struct Scratch {
  std::uint16_t *x, *both, *hidden, *z;
  SortedPairs sorted;
  std::size_t bytes = 0;

  Scratch(const SortedExpertsArgs& a, void* memory) {
    const std::size_t pairs = static_cast<std::size_t>(a.T) * a.n_active;
    const auto take = [&]<class T>(T*& to, std::size_t n) {
      to = reinterpret_cast<T*>(static_cast<char*>(memory) + bytes);
      bytes += (n * sizeof(T) + 15) / 16 * 16;
    };
    take(x, static_cast<std::size_t>(a.T) * a.K);
    take(both, pairs * 2 * a.N);
    take(hidden, pairs * a.N);
    take(z, pairs * a.K);
    take(sorted.order, pairs);
    take(sorted.tiles, most_tiles(static_cast<int>(pairs), a.n_experts));
  }
};

}  // namespace

std::size_t sorted_experts_scratch_bytes(const SortedExpertsArgs& args) {
  return Scratch(args, nullptr).bytes;
}

void sorted_experts(const SortedExpertsArgs& args, void* scratch,
                    const Launcher& launch) {
  if (args.T == 0) return;
  const Scratch s(args, scratch);
  const int pairs = args.T * args.n_active;
  const int n_tiles = most_tiles(pairs, args.n_experts);
  narrow_rows({args.x, nullptr, 0, s.x, args.T, args.K}, launch);
  SortArgs sort{args.ids, s.sorted, pairs, args.n_experts, n_tiles};
  void* sort_arguments[] = {&sort};
  launch(reinterpret_cast<const void*>(&sort_pairs),
         {1, 1, 1, kMostExperts, 3 * kMostExperts * sizeof(int)}, sort_arguments);
  const auto product = [&](GroupedArgs grouped) {
    allow_tile_memory(grouped_product);
    grouped.sorted = s.sorted;
    grouped.n_experts = args.n_experts;
    void* arguments[] = {&grouped};
    const int tiles_of_part = (grouped.N + kTileColumns - 1) / kTileColumns;
    launch(reinterpret_cast<const void*>(&grouped_product),
           {static_cast<unsigned>(grouped.n_parts * tiles_of_part),
            static_cast<unsigned>(n_tiles), 1, kTileThreads, kTileBytes},
           arguments);
  };
  product(
      {s.x, args.gate_and_up, s.both, {}, args.n_active, false, 0, args.N, args.K, 2});
  glu_halves(args.f, s.both, pairs, args.N, s.hidden, launch);
  product({s.hidden, args.down, s.z, {}, 0, true, 0, args.K, args.N, 1});
  sum_experts({s.z, FloatType::kBF16, args.weights, args.residual, args.y, args.T,
               args.n_active, args.K},
              launch);
}

}  // namespace optiq::kernels::cuda
