#include "optiq/kernels/cuda_primitive.h"

#include <cuda_runtime.h>

#include <utility>

#include "mlx/allocator.h"
#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"
#include "optiq/base/error.h"

namespace optiq::kernels {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw ResourceError(std::string("CUDA: ") + what + ": " +
                        cudaGetErrorString(error));
}

}  // namespace

void* CudaCall::address(const mx::array& x) {
  return const_cast<void*>(static_cast<const void*>(mx::gpu_ptr<char>(x)));
}

void* CudaCall::scratch(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  mx::array memory({static_cast<int>(bytes)}, mx::uint8, nullptr, {});
  memory.set_data(mx::allocator::malloc(bytes));
  mx::cu::get_command_encoder(stream_).add_temporary(memory);
  scratch_.push_back(memory);
  return address(memory);
}

Launcher CudaCall::launcher() {
  return [this](const void* symbol, const LaunchShape& shape, void** arguments) {
    auto& encoder = mx::cu::get_command_encoder(stream_);
    encoder.device().make_current();
    for (const mx::array& x : inputs_) encoder.set_input_array(x);
    // An output alone does not wait for what wrote it before.
    for (const Arrays* written : {&outputs_, &std::as_const(scratch_)})
      for (const mx::array& x : *written) {
        encoder.set_input_array(x);
        encoder.set_output_array(x);
      }
    // MLX has a runtime of its own, which does not know our symbols.
    cudaFunction_t function;
    check(cudaGetFuncBySymbol(&function, symbol), "kernel");
    encoder.add_kernel_node_raw(
        reinterpret_cast<CUfunction>(function),
        dim3(shape.grid_x, shape.grid_y, shape.grid_z), dim3(shape.block_x),
        dim3(0, 0, 0), static_cast<std::uint32_t>(shape.shared_bytes), arguments);
  };
}

}  // namespace optiq::kernels
