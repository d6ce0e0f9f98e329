#include "optiq/kernels/low_rank/low_rank_cuda.h"

#include <algorithm>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kPartsAtOnce = 24;  // as kernels' arguments have room for

/// Rows of one product and of one adapter, or of none (rank 0).
struct LowRankPiece {
  const float* x;
  const float* y;
  const float* residual;
  const float* bias;
  float* out;
  float* h;  // [rows, rank]
  LowRankFactors factors;
  int begin, rows, K, N;
};

struct LowRankCall {
  LowRankPiece pieces[kPartsAtOnce];
};

// h = scale x a^T: a warp a sum.
__global__ void low_rank_sums(const __grid_constant__ LowRankCall call) {
  const LowRankPiece& p = call.pieces[blockIdx.y];
  const int item = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_inputs();
  if (item >= p.rows * p.factors.rank) return;
  const int m = item / p.factors.rank, r = item % p.factors.rank;
  const float* x = p.x + static_cast<std::int64_t>(p.begin + m) * p.K;
  const std::int64_t a = static_cast<std::int64_t>(r) * p.K;
  constexpr int kChains = 4;
  float sums[kChains] = {};
  int k = lane;
  for (; k + 32 * (kChains - 1) < p.K; k += 32 * kChains) {
#pragma unroll
    for (int i = 0; i < kChains; ++i)
      sums[i] = fmaf(x[k + 32 * i],
                     float_at(p.factors.a, a + k + 32 * i, p.factors.a_type), sums[i]);
  }
  for (; k < p.K; k += 32)
    sums[0] = fmaf(x[k], float_at(p.factors.a, a + k, p.factors.a_type), sums[0]);
  float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) p.h[item] = p.factors.scale * sum;
}

// out of h: a thread a column.
__global__ void low_rank_columns(const __grid_constant__ LowRankCall call) {
  const LowRankPiece& p = call.pieces[blockIdx.y];
  const LowRankFactors& f = p.factors;
  const int n = blockIdx.x * kThreads + threadIdx.x;
  wait_for_inputs();
  if (n >= p.N) return;
  const float bias = p.bias ? p.bias[n] : 0.0f;
  for (int m = 0; m < p.rows; ++m) {
    const std::int64_t at = static_cast<std::int64_t>(p.begin + m) * p.N + n;
    float z = 0;
    for (int r = 0; r < f.rank; ++r)
      z = fmaf(p.h[m * f.rank + r],
               float_at(f.b, static_cast<std::int64_t>(r) * p.N + n, f.b_type), z);
    float value = p.y[at];
    value = f.gain ? fmaf(f.gain[n], value - bias + z, bias) : value + z;
    if (p.residual) value += p.residual[at];
    p.out[at] = value;
  }
}

void run(const LowRankCall& call, int n_pieces, const Launcher& launch) {
  int most_sums = 0, most_columns = 0;
  for (int i = 0; i < n_pieces; ++i) {
    const LowRankPiece& p = call.pieces[i];
    most_sums = std::max(most_sums, p.rows * p.factors.rank);
    most_columns = std::max(most_columns, p.N);
  }
  LowRankCall copy = call;
  void* arguments[] = {&copy};
  const auto start = [&](auto kernel, int items, int of_block) {
    const auto blocks = static_cast<unsigned>((items + of_block - 1) / of_block);
    if (blocks > 0)
      launch(reinterpret_cast<const void*>(kernel),
             {blocks, static_cast<unsigned>(n_pieces), 1, kThreads}, arguments);
  };
  start(&low_rank_sums, most_sums, kWarps);
  start(&low_rank_columns, most_columns, kThreads);
}

}  // namespace

std::size_t low_rank_scratch_bytes(std::span<const LowRankArgs> products) {
  std::size_t sums = 0;
  for (const LowRankArgs& product : products)
    for (const LowRankRows& rows : product.rows)
      if (rows.factors)
        sums += static_cast<std::size_t>((rows.end - rows.begin) * rows.factors->rank);
  return sums * sizeof(float);
}

void low_rank(std::span<const LowRankArgs> products, void* scratch,
              const Launcher& launch) {
  auto* h = static_cast<float*>(scratch);
  LowRankCall call{};
  int n_pieces = 0;
  for (const LowRankArgs& product : products)
    for (const LowRankRows& rows : product.rows) {
      LowRankPiece& p = call.pieces[n_pieces++];
      p = {product.x, product.y,  product.residual,      product.bias, product.out, h,
           {},        rows.begin, rows.end - rows.begin, product.K,    product.N};
      if (rows.factors) p.factors = *rows.factors;
      h += p.rows * p.factors.rank;
      if (n_pieces < kPartsAtOnce) continue;
      run(call, n_pieces, launch);
      n_pieces = 0;
    }
  if (n_pieces > 0) run(call, n_pieces, launch);
}

}  // namespace optiq::kernels::cuda
