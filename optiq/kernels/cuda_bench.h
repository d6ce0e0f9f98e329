// How long a call on a CUDA device takes.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "optiq/kernels/cuda_testing.h"

namespace optiq::bench {

/// Median of five, in seconds, of one call(i) among `calls`.
template <class Call>
double device_seconds(Call&& call, int calls = 64) {
  using optiq::testing::check_cuda;
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "event");
  check_cuda(cudaEventCreate(&end), "event");
  std::vector<double> times;
  for (int i = 0; i < calls; ++i) call(i);
  for (int round = 0; round < 5; ++round) {
    cudaEventRecord(begin);
    for (int i = 0; i < calls; ++i) call(i);
    cudaEventRecord(end);
    check_cuda(cudaEventSynchronize(end), "kernel");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(1e-3 * ms / calls);
  }
  std::ranges::sort(times);
  return times[2];
}

}  // namespace optiq::bench
