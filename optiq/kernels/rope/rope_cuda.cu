// A warp a row and head: its norm, then pairs of values turned by an angle that is
// made anew for each head, which costs less than to wait for another block's.
#include "optiq/kernels/rope/rope_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kMostKept = 8;  // values of a lane, the n-th at 32 n + lane

// Grid: rows, heads of queries and then of keys.
__global__ void turn_heads(const __grid_constant__ RopeArgs a) {
  __shared__ float turned[kMostKept * 32];  // the head's values, normed
  const std::int64_t row = blockIdx.x;
  const bool keys = static_cast<int>(blockIdx.y) >= a.q.n_heads;
  const RopeHeads& heads = keys ? a.k : a.q;
  const int head = static_cast<int>(blockIdx.y) - (keys ? a.q.n_heads : 0);
  const int lane = threadIdx.x, F = a.n_frequencies, D = a.head_dim;
  const bool kept = D <= kMostKept * 32;
  float weight[kMostKept], values[kMostKept];
#pragma unroll
  for (int n = 0; n < kMostKept; ++n)
    weight[n] = heads.norm && 32 * n + lane < D ? heads.norm[32 * n + lane] : 1.0f;
  wait_for_inputs();
  const float* x = heads.x + row * heads.row_stride + head * heads.head_stride;
  float* y = heads.y + (row * heads.n_heads + head) * D;
  const auto position = static_cast<float>(a.positions[row]);
  const bool is_long = a.long_rows && a.long_rows[row] != 0;
  const float* frequencies = is_long ? a.long_inverse_frequency : a.inverse_frequency;
#pragma unroll
  for (int n = 0; n < kMostKept; ++n)
    values[n] = 32 * n + lane < D ? x[32 * n + lane] : 0.0f;
  float factor = 1;
  if (heads.norm) {
    float square = 0;
#pragma unroll
    for (int n = 0; n < kMostKept; ++n) square = fmaf(values[n], values[n], square);
    for (int i = kMostKept * 32 + lane; i < D; i += 32)
      square = fmaf(x[i], x[i], square);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      square += __shfl_xor_sync(~0u, square, step);
    factor = 1 / sqrtf(square / static_cast<float>(D) + a.eps);
  }
#pragma unroll
  for (int n = 0; n < kMostKept; ++n)
    turned[32 * n + lane] = weight[n] * (values[n] * factor);
  __syncwarp();
  const auto value = [&](int i) {
    return kept ? turned[i] : heads.norm ? heads.norm[i] * (x[i] * factor) : x[i];
  };
  for (int i = lane; i < F; i += 32) {
    float sine, cosine;
    sincosf(__fmul_rn(position, frequencies[i]), &sine, &cosine);
    sine *= a.scale;
    cosine *= a.scale;
    const float low = value(i), high = value(i + F);
    y[i] = cosine * low - sine * high;
    y[i + F] = cosine * high + sine * low;
  }
  for (int i = 2 * F + lane; i < D; i += 32) y[i] = value(i);
}

}  // namespace

void rope(const RopeArgs& args, const Launcher& launch) {
  if (args.rows == 0) return;
  RopeArgs copy = args;
  void* arguments[] = {&copy};
  launch(reinterpret_cast<const void*>(&turn_heads),
         {static_cast<unsigned>(args.rows),
          static_cast<unsigned>(args.q.n_heads + args.k.n_heads), 1, 32},
         arguments);
}

}  // namespace optiq::kernels::cuda
