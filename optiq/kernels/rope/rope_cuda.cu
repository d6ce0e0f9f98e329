// A warp a row and head.
#include "optiq/kernels/rope/rope_cuda.h"

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/rope/rope_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

// Grid: rows, heads of queries and then of keys.
__global__ void turn_heads(const __grid_constant__ RopeArgs a) {
  extern __shared__ float values[];  // [D]
  wait_for_inputs();
  const std::int64_t row = blockIdx.x;
  const bool keys = static_cast<int>(blockIdx.y) >= a.q.n_heads;
  const RopeHeads& heads = keys ? a.k : a.q;
  const int head = static_cast<int>(blockIdx.y) - (keys ? a.q.n_heads : 0);
  const int lane = threadIdx.x, D = a.head_dim;
  const float* x = heads.x + row * heads.row_stride + head * heads.head_stride;
  float* y = heads.y + (row * heads.n_heads + head) * D;
  for (int i = lane; i < D; i += 32) values[i] = x[i];
  turn_head(a, heads.norm, row, D, values, lane);
  for (int i = lane; i < D; i += 32) y[i] = values[i];
}

}  // namespace

void rope(const RopeArgs& args, const Launcher& launch) {
  if (args.rows == 0) return;
  RopeArgs copy = args;
  void* arguments[] = {&copy};
  launch(reinterpret_cast<const void*>(&turn_heads),
         {static_cast<unsigned>(args.rows),
          static_cast<unsigned>(args.q.n_heads + args.k.n_heads), 1, 32,
          args.head_dim * sizeof(float)},
         arguments);
}

}  // namespace optiq::kernels::cuda
