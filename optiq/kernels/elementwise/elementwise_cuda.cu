#include "optiq/kernels/elementwise/elementwise_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct ScaledSum {
  const float* a;
  const float* b;
  float scale;
  float* y;

  __device__ void operator()(std::int64_t i) const {
    y[i] = scale * (b ? a[i] + b[i] : a[i]);
  }
};

struct GatedSum {
  const float* a;
  const float* b;
  const float* gate;
  float* y;
  std::int64_t columns;

  __device__ void operator()(std::int64_t i) const {
    y[i] = a[i] + b[i] / (1 + expf(-gate[i / columns]));
  }
};

struct Softcap {
  const float* x;
  float cap;
  float* y;

  __device__ void operator()(std::int64_t i) const { y[i] = cap * tanhf(x[i] / cap); }
};

template <class Operation>
__global__ void each_value(const __grid_constant__ Operation operation,
                           std::int64_t n) {
  wait_for_inputs();
  const std::int64_t i =
      static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) operation(i);
}

template <class Operation>
void start(Operation operation, std::int64_t n, const Launcher& launch) {
  if (n == 0) return;
  void* arguments[] = {&operation, &n};
  launch(reinterpret_cast<const void*>(&each_value<Operation>),
         {static_cast<unsigned>((n + 255) / 256), 1, 1, 256}, arguments);
}

}  // namespace

void scaled_sum(const float* a, const float* b, float scale, float* y, std::int64_t n,
                const Launcher& launch) {
  start(ScaledSum{a, b, scale, y}, n, launch);
}

void gated_sum(const float* a, const float* b, const float* gate, float* y,
               std::int64_t rows, std::int64_t n, const Launcher& launch) {
  start(GatedSum{a, b, gate, y, n}, rows * n, launch);
}

void softcap(const float* x, float cap, float* y, std::int64_t n,
             const Launcher& launch) {
  start(Softcap{x, cap, y}, n, launch);
}

}  // namespace optiq::kernels::cuda
