// A tile of x w^T in bfloat16 on tensor cores: 128 rows of x by 128 rows of w, by
// mma.m16n8k16, a stage of 64 values of each row after another through shared memory.
// Compute capability 8.0 and later.
#pragma once
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kTileRows = 128, kTileColumns = 128, kTileThreads = 256;
inline constexpr int kTileDepth = 64;  // values of a row in a stage: 128 bytes
inline constexpr int kTileStages = 3;
inline constexpr int kTileRowBytes = 2 * kTileDepth;
inline constexpr int kStageBytes = (kTileRows + kTileColumns) * kTileRowBytes;
/// Shared memory of a block.
inline constexpr int kTileBytes = kTileStages * kStageBytes;

/// To be called before such a kernel is launched.
template <class Kernel>
void allow_tile_memory(Kernel kernel) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileBytes);
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
}

/// Where 16 bytes of a row lie in a stage: rows that are read at once have them in
/// different banks.
__device__ inline int tile_offset(int row, int sixteen) {
  return row * kTileRowBytes + ((sixteen ^ (row & 7)) << 4);
}

/// By a block of kTileThreads. row_of_x(i) and row_of_w(i) give where row i of the tile
/// begins, null for rows of zeros; store(i, n, first, second) is called with the sums
/// at row i and columns n and n + 1, once for each.
///
/// Requires  rows of K values at multiples of 16 bytes, K a multiple of 8
template <class RowOfX, class RowOfW, class Store>
__device__ __forceinline__ void tile_product(RowOfX&& row_of_x, RowOfW&& row_of_w,
                                             int K, Store&& store) {
  char* const shared = dynamic_shared();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A thread brings sixteen bytes of every 32nd row.
  constexpr int kRowsAtOnce = kTileThreads / 8, kOfThread = kTileRows / kRowsAtOnce;
  static_assert(kTileRows == kTileColumns);
  const int sixteen = threadIdx.x % 8, first_row = threadIdx.x / 8;
  const std::uint16_t *x[kOfThread], *w[kOfThread];
#pragma unroll
  for (int i = 0; i < kOfThread; ++i) {
    x[i] = row_of_x(first_row + i * kRowsAtOnce);
    w[i] = row_of_w(first_row + i * kRowsAtOnce);
  }
  const int n_stages = (K + kTileDepth - 1) / kTileDepth;
  const auto bring = [&](int stage) {
    if (stage < n_stages) {
      char* to = shared + stage % kTileStages * kStageBytes;
      const int k = stage * kTileDepth + sixteen * 8;
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
        const int at = tile_offset(first_row + i * kRowsAtOnce, sixteen);
        start_copy_or_zero(to + at, x[i] + k, x[i] && k < K);
        start_copy_or_zero(to + kTileRows * kTileRowBytes + at, w[i] + k,
                           w[i] && k < K);
      }
    }
    end_copies();
  };
#pragma unroll
  for (int stage = 0; stage < kTileStages - 1; ++stage) bring(stage);

  // Warps lie in two rows of four: 64 rows of x by 32 of w each.
  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  const int x_row = warp_row + lane % 16, x_sixteen = lane / 16;
  const int w_row = warp_column + lane / 16 * 8 + lane % 8, w_sixteen = lane / 8 % 2;
  float sums[4][4][4] = {};
  for (int stage = 0; stage < n_stages; ++stage) {
    wait_for_copies<kTileStages - 2>();
    __syncthreads();
    bring(stage + kTileStages - 1);
    const char* of_x = shared + stage % kTileStages * kStageBytes;
    const char* of_w = of_x + kTileRows * kTileRowBytes;
#pragma unroll
    for (int k = 0; k < kTileDepth / 16; ++k) {
      std::uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int m = 0; m < 4; ++m)
        load_matrices(of_x + tile_offset(x_row + 16 * m, 2 * k + x_sixteen), a[m]);
#pragma unroll
      for (int n = 0; n < 2; ++n)
        load_matrices(of_w + tile_offset(w_row + 16 * n, 2 * k + w_sixteen), b[n]);
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
          multiply_add_bf16(sums[m][n], a[m], b[n / 2][n % 2 * 2],
                            b[n / 2][n % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store(warp_row + 16 * m + lane / 4 + 8 * half,
              warp_column + 8 * n + 2 * (lane % 4), sums[m][n][2 * half],
              sums[m][n][2 * half + 1]);
}

}  // namespace optiq::kernels::cuda
