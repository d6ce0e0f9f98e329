// A block a row, of a warp where rows are short; a thread has its part of the row in
// registers, so that it is read once.
#include "optiq/kernels/rms_norm/rms_norm_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostKept = 8;  // values of a thread, the n-th at n blockDim + thread

__global__ void norm_rows(const __grid_constant__ RmsNormArgs a) {
  __shared__ float sums[kMostThreads / 32];
  const int thread = threadIdx.x, threads = blockDim.x, warps = threads / 32;
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.x) * a.dim;
  float weight[kMostKept], x[kMostKept];
#pragma unroll
  for (int n = 0; n < kMostKept; ++n) {
    const int i = n * threads + thread;
    weight[n] = i < a.dim ? a.weight[i] : 0.0f;
  }
  wait_for_inputs();
#pragma unroll
  for (int n = 0; n < kMostKept; ++n) {
    const int i = n * threads + thread;
    x[n] = i < a.dim ? a.x[from + i] : 0.0f;
  }
  float square = 0;
#pragma unroll
  for (int n = 0; n < kMostKept; ++n) square = fmaf(x[n], x[n], square);
  for (int i = kMostKept * threads + thread; i < a.dim; i += threads)
    square = fmaf(a.x[from + i], a.x[from + i], square);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
  if (thread % 32 == 0) sums[thread / 32] = square;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += sums[warp];
  const float factor = 1 / sqrtf(sum / static_cast<float>(a.dim) + a.eps);
  const auto store = [&](int i, float value, float w) {
    float y = w * (value * factor);
    if (a.gate) {
      const float g = a.gate[from + i];
      y *= g / (1 + expf(-g));
    }
    a.y[from + i] = y;
  };
#pragma unroll
  for (int n = 0; n < kMostKept; ++n) {
    const int i = n * threads + thread;
    if (i < a.dim) store(i, x[n], weight[n]);
  }
  for (int i = kMostKept * threads + thread; i < a.dim; i += threads)
    store(i, a.x[from + i], a.weight[i]);
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const Launcher& launch) {
  if (args.rows == 0) return;
  RmsNormArgs copy = args;
  void* arguments[] = {&copy};
  const unsigned threads = args.dim > 2048  ? 1024
                           : args.dim > 512 ? 256
                           : args.dim > 256 ? 64
                                            : 32;
  launch(reinterpret_cast<const void*>(&norm_rows),
         {static_cast<unsigned>(args.rows), 1, 1, threads}, arguments);
}

}  // namespace optiq::kernels::cuda
