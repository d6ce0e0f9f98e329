// How long a call on a CUDA device takes.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "optiq/kernels/cuda_graph.h"
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

/// What `record` starts, as one graph (cuda_graph.h) on a stream that the default one
/// waits for.
class Graph {
 public:
  template <class Record>
  explicit Graph(Record&& record) {
    testing::check_cuda(cudaStreamCreate(&stream_), "stream");
    record([this](const void* symbol, const kernels::LaunchShape& shape,
                  void** arguments) { graph_.add(symbol, shape, arguments); });
  }
  ~Graph() { cudaStreamDestroy(stream_); }
  void run() { graph_.launch(stream_); }

 private:
  kernels::CudaGraph graph_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace optiq::bench
