#include "optiq/kernels/cuda_graph.h"

#include <utility>

#include "optiq/kernels/cuda_error.h"

namespace optiq::kernels {
namespace {

bool can_overlap() {
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "compute capability");
  return major >= 9;
}

}  // namespace

CudaGraph::~CudaGraph() {
  if (graph_) cudaGraphExecDestroy(graph_);
}

void CudaGraph::add(const void* symbol, const LaunchShape& shape, void** arguments) {
  Kernel kernel{symbol, shape, {}};
  std::size_t offset, size;
  for (std::size_t i = 0;
       cudaFuncGetParamInfo(symbol, i, &offset, &size) == cudaSuccess; ++i) {
    const auto* from = static_cast<const std::byte*>(arguments[i]);
    kernel.arguments.emplace_back(from, from + size);
  }
  cudaGetLastError();  // of the parameter behind the last
  kernels_.push_back(std::move(kernel));
}

void CudaGraph::launch(cudaStream_t stream) {
  if (!graph_) instantiate(stream);
  check_cuda(cudaGraphLaunch(graph_, stream), "graph launch");
}

void CudaGraph::instantiate(cudaStream_t stream) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
             "capture");
  cudaError_t launched = cudaSuccess;
  for (Kernel& kernel : kernels_) {
    std::vector<void*> arguments;
    for (auto& argument : kernel.arguments) arguments.push_back(argument.data());
    const LaunchShape& s = kernel.shape;
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(s.grid_x, s.grid_y, s.grid_z);
    config.blockDim = dim3(s.block_x);
    config.dynamicSmemBytes = s.shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = can_overlap() ? 1 : 0;
    launched = cudaLaunchKernelExC(&config, kernel.symbol, arguments.data());
    if (launched != cudaSuccess) break;
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  check_cuda(launched, "captured kernel");
  check_cuda(ended, "end of capture");
  const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(made, "graph");
  kernels_.clear();
}

}  // namespace optiq::kernels
