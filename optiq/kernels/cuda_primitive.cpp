#include "optiq/kernels/cuda_primitive.h"

#include <cuda_runtime.h>

#include <cstring>
#include <utility>

#include "mlx/allocator.h"
#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"
#include "optiq/base/error.h"
#include "optiq/kernels/cuda_copy.h"
#include "optiq/kernels/cuda_error.h"
#include "optiq/kernels/cuda_graph.h"
#include "optiq/kernels/device_memory.h"
#include "optiq/kernels/dispatch_tape.h"

namespace optiq::kernels {
namespace {

// A stream for what does not go through MLX. Whoever uses it waits for it, and comes
// after MLX's own work is done.
cudaStream_t own_stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t made;
    check_cuda(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "stream");
    return made;
  }();
  return stream;
}

// Taped launches, as a CUDA graph.
class CudaTape : public DeviceTape {
 public:
  void add(const void* symbol, const LaunchShape& shape, void** arguments) {
    graph_.add(symbol, shape, arguments);
  }

  void replay() override { graph_.launch(own_stream()); }

 private:
  CudaGraph graph_;
};

CudaTape& cuda_part(DispatchTape& tape) {
  if (!tape.device()) tape.device() = std::make_shared<CudaTape>();
  return static_cast<CudaTape&>(*tape.device());
}

// Memory that is fixed in place, for copies that do not stop at every page.
class Staging {
 public:
  ~Staging() { cudaFreeHost(data_); }
  void* of(std::size_t bytes) {
    if (bytes > bytes_) {
      cudaFreeHost(data_);
      data_ = nullptr;
      bytes_ = 0;
      check_cuda(cudaMallocHost(&data_, bytes), "staging memory");
      bytes_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

Staging& staging() {
  thread_local Staging memory;
  return memory;
}

// Writes that nobody waits for, each from memory of its own.
constexpr std::size_t kQueuedBytes = 1 << 20;
struct Queued {
  bool queues = false;
  std::size_t bytes = 0;

  void* take(std::size_t n) {
    thread_local Staging memory;
    char* const at = static_cast<char*>(memory.of(kQueuedBytes)) + bytes;
    bytes += n;
    return at;
  }
};

Queued& queued() {
  thread_local Queued writes;
  return writes;
}

}  // namespace

void* CudaCall::address(const mx::array& x) {
  return const_cast<void*>(static_cast<const void*>(mx::gpu_ptr<char>(x)));
}

mx::array CudaCall::temporary(const mx::Shape& shape, mx::Dtype type) {
  mx::array memory(shape, type, nullptr, {});
  memory.set_data(cuda::device_memory(memory.nbytes()));
  mx::cu::get_command_encoder(stream_).add_temporary(memory);
  if (DispatchTape* tape = TapeRecording::current())
    tape->keep(memory.data_shared_ptr());
  scratch_.push_back(memory);
  return memory;
}

void* CudaCall::scratch(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  // Of words, so that an array's length is enough for what there is memory for.
  return address(temporary({static_cast<int>((bytes + 7) / 8)}, mx::uint64));
}

mx::array CudaCall::in_rows(const mx::array& x) {
  if (x.flags().row_contiguous) return x;
  OPTIQ_CHECK(x.ndim() <= cuda::kMostAxes, "an array of few axes");
  mx::array copy = temporary(x.shape(), x.dtype());
  cuda::Strided from{
      address(x), static_cast<int>(x.ndim()), {}, {}, static_cast<int>(x.itemsize())};
  for (int axis = 0; axis < from.n_axes; ++axis) {
    from.shape[axis] = x.shape(axis);
    from.strides[axis] = x.strides(axis);
  }
  cuda::copy_to_rows(from, address(copy), launcher());
  return copy;
}

Launcher CudaCall::launcher() {
  return [this](const void* symbol, const LaunchShape& shape, void** arguments) {
    auto& encoder = mx::cu::get_command_encoder(stream_);
    encoder.device().make_current();
    for (const mx::array& x : inputs_) encoder.set_input_array(x);
    // An output alone does not wait for what wrote it before.
    for (const Arrays* written : {&outputs_, &std::as_const(scratch_)})
      for (const mx::array& x : *written) {
        OPTIQ_CHECK(x.data_shared_ptr() != nullptr, "an output with memory");
        encoder.set_input_array(x);
        encoder.set_output_array(x);
      }
    // MLX has a runtime of its own, which does not know our symbols.
    cudaFunction_t function;
    check_cuda(cudaGetFuncBySymbol(&function, symbol), "kernel");
    encoder.add_kernel_node_raw(
        reinterpret_cast<CUfunction>(function),
        dim3(shape.grid_x, shape.grid_y, shape.grid_z), dim3(shape.block_x),
        dim3(0, 0, 0), static_cast<std::uint32_t>(shape.shared_bytes), arguments);
    if (DispatchTape* tape = TapeRecording::current())
      cuda_part(*tape).add(symbol, shape, arguments);
  };
}

const void* cuda::address_of(const mx::array& x) { return CudaCall::data<char>(x); }

void cuda::queue_writes(bool queue) { queued() = {queue, 0}; }

void cuda::write(const mx::array& to, const void* from) {
  const std::size_t bytes = to.nbytes();
  const bool waits = !queued().queues || queued().bytes + bytes > kQueuedBytes;
  void* staged = waits ? staging().of(bytes) : queued().take(bytes);
  std::memcpy(staged, from, bytes);
  check_cuda(cudaMemcpyAsync(CudaCall::data<char>(to), staged, bytes, cudaMemcpyDefault,
                             own_stream()),
             "copy to the device");
  if (waits) check_cuda(cudaStreamSynchronize(own_stream()), "copy to the device");
}

void cuda::copy(const mx::array& to, const mx::array& from) {
  check_cuda(cudaMemcpyAsync(CudaCall::data<char>(to), CudaCall::data<char>(from),
                             to.nbytes(), cudaMemcpyDefault, own_stream()),
             "copy");
  check_cuda(cudaStreamSynchronize(own_stream()), "copy");
}

mx::array cuda::copy_of(const mx::array& x) {
  OPTIQ_CHECK(x.flags().row_contiguous, "an array in rows");
  mx::array made(x.shape(), x.dtype(), nullptr, {});
  made.set_data(device_memory(x.nbytes()));
  made.set_status(mx::array::Status::available);
  if (x.nbytes() > 0) copy(made, x);
  return made;
}

void cuda::read(const mx::array& from, std::size_t first, std::size_t bytes, void* to) {
  void* staged = staging().of(bytes);
  check_cuda(cudaMemcpyAsync(staged, CudaCall::data<char>(from) + first, bytes,
                             cudaMemcpyDefault, own_stream()),
             "copy from the device");
  check_cuda(cudaStreamSynchronize(own_stream()), "copy from the device");
  std::memcpy(to, staged, bytes);
}

}  // namespace optiq::kernels
