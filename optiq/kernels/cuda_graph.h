// Kernels recorded once and started together, as often as they are wanted.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "optiq/kernels/cuda_launch.h"

namespace optiq::kernels {

/// A CUDA graph of kernels that run one after another, each of which may start while
/// the one before it ends (wait_for_inputs) on devices that can do that.
class CudaGraph {
 public:
  CudaGraph() = default;
  ~CudaGraph();
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  /// The kernel of this host symbol with a copy of its arguments, behind those before.
  ///
  /// Requires  no launch() yet
  void add(const void* symbol, const LaunchShape& shape, void** arguments);

  /// Starts the kernels on a stream that is not being captured.
  ///
  /// Throws    ResourceError
  void launch(cudaStream_t stream);

 private:
  struct Kernel {
    const void* symbol;
    LaunchShape shape;
    std::vector<std::vector<std::byte>> arguments;
  };

  void instantiate(cudaStream_t stream);

  std::vector<Kernel> kernels_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace optiq::kernels
