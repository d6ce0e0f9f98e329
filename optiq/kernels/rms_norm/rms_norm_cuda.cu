// A block a row, of a warp where rows are short.
#include "optiq/kernels/rms_norm/rms_norm_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kMostThreads = 512;

__global__ void norm_rows(const __grid_constant__ RmsNormArgs a) {
  __shared__ float sums[kMostThreads / 32];
  wait_for_inputs();
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.x) * a.dim;
  float square = 0;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x)
    square = fmaf(a.x[from + i], a.x[from + i], square);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = square;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += sums[warp];
  const float factor = 1 / sqrtf(sum / static_cast<float>(a.dim) + a.eps);
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    float y = a.weight[i] * (a.x[from + i] * factor);
    if (a.gate) {
      const float g = a.gate[from + i];
      y *= g / (1 + expf(-g));
    }
    a.y[from + i] = y;
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const Launcher& launch) {
  if (args.rows == 0) return;
  RmsNormArgs copy = args;
  void* arguments[] = {&copy};
  const unsigned threads = args.dim >= 4096   ? 512
                           : args.dim >= 1024 ? 256
                           : args.dim >= 256  ? 64
                                              : 32;
  launch(reinterpret_cast<const void*>(&norm_rows),
         {static_cast<unsigned>(args.rows), 1, 1, threads}, arguments);
}

}  // namespace optiq::kernels::cuda
