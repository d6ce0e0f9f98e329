#include "optiq/kernels/glu/glu_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Args {
  GluGate gate;
  const float* g;
  const float* u;
  float* y;
  std::int64_t n;
};

__global__ void product(const __grid_constant__ Args a) {
  wait_for_inputs();
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.n) return;
  a.y[i] = gate_value(a.gate, a.g[i]) * a.u[i];
}

}  // namespace

void glu_product(GluGate gate, const float* g, const float* u, float* y, std::int64_t n,
                 const Launcher& launch) {
  if (n == 0) return;
  Args args{gate, g, u, y, n};
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&product),
         {static_cast<unsigned>((n + 255) / 256), 1, 1, 256}, arguments);
}

}  // namespace optiq::kernels::cuda
