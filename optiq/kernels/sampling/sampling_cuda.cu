#include "optiq/kernels/sampling/sampling_cuda.h"

#include <cmath>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;

struct LargestArgs {
  const float* logits;
  std::int32_t* ids;
  int width;
};

/// The larger of two, of equal ones the one of the lower id; what is no number is
/// larger than all.
struct Best {
  float value;
  int id;

  __device__ void meet(float other, int other_id) {
    const bool is_nan = other != other, am_nan = value != value;
    if (am_nan) return;
    if (is_nan || other > value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
  __device__ void meet_warp() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      meet(__shfl_xor_sync(~0u, value, step), __shfl_xor_sync(~0u, id, step));
  }
};

// A block a row.
__global__ void __launch_bounds__(kThreads)
    largest_of_row(const __grid_constant__ LargestArgs a) {
  auto* of_warps = reinterpret_cast<Best*>(dynamic_shared());
  const int thread = threadIdx.x;
  wait_for_inputs();
  const float* row = a.logits + static_cast<std::int64_t>(blockIdx.x) * a.width;
  Best best{-INFINITY, a.width};
  constexpr int kAhead = 8;  // on their way at once
  int i = thread;
  for (; i + (kAhead - 1) * kThreads < a.width; i += kAhead * kThreads) {
    float values[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) values[n] = row[i + n * kThreads];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) best.meet(values[n], i + n * kThreads);
  }
  for (; i < a.width; i += kThreads) best.meet(row[i], i);
  best.meet_warp();
  if (thread % 32 == 0) of_warps[thread / 32] = best;
  __syncthreads();
  if (thread >= 32) return;
  best = of_warps[thread];
  best.meet_warp();
  const bool is_number = best.value - best.value == 0;  // neither infinite nor NaN
  if (thread == 0) a.ids[blockIdx.x] = is_number ? best.id : -1;
}

}  // namespace

void largest_logits(const float* logits, int rows, int width, std::int32_t* ids,
                    const Launcher& launch) {
  static_assert(kWarps == 32);
  if (rows == 0) return;
  LargestArgs args{logits, ids, width};
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&largest_of_row),
         {static_cast<unsigned>(rows), 1, 1, kThreads, kWarps * sizeof(Best)},
         arguments);
}

}  // namespace optiq::kernels::cuda
