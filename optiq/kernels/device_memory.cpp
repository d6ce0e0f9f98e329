#include "optiq/kernels/device_memory.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <bit>
#include <map>
#include <mutex>
#include <vector>

#include "mlx/backend/cuda/allocator.h"
#include "optiq/base/error.h"
#include "optiq/kernels/cuda_error.h"

namespace optiq::kernels::cuda {
namespace {

using mx::cu::CudaBuffer;

// Sizes of blocks: eight steps to each doubling, so that calls of other lengths find
// blocks of those before.
std::size_t block_size(std::size_t bytes) {
  constexpr std::size_t kLeast = 512;
  if (bytes <= kLeast) return kLeast;
  const std::size_t step = std::bit_floor(bytes - 1) / 8;
  return (bytes + step - 1) / step * step;
}

// Blocks keep their CudaBuffer, by which MLX orders the kernels of whoever had it
// before and after.
class Blocks {
 public:
  CudaBuffer* take(std::size_t bytes) {
    const std::size_t size = block_size(bytes);
    const std::lock_guard lock(mutex_);
    std::vector<CudaBuffer*>& free = free_[size];
    if (!free.empty()) {
      CudaBuffer* block = free.back();
      free.pop_back();
      kept_bytes_ -= size;
      return block;
    }
    int device = 0;
    check_cuda(cudaGetDevice(&device), "device");
    void* memory = allocated(size);
    if (!memory) {
      release();
      memory = allocated(size);
    }
    if (!memory)
      throw ResourceError(fmt::format("the GPU has no room for {} bytes more", size));
    return new CudaBuffer{memory, size, device};
  }

  void give_back(CudaBuffer* block) {
    if (block->device >= 0) {
      const std::lock_guard lock(mutex_);
      if (kept_bytes_ + block->size <= most_kept()) {
        kept_bytes_ += block->size;
        free_[block->size].push_back(block);
        return;
      }
    }
    cudaPointerAttributes attributes{};
    if (block->device >= 0)
      cudaFreeAsync(block->data, cudaStreamPerThread);
    else if (cudaPointerGetAttributes(&attributes, block->data) == cudaSuccess &&
             attributes.type == cudaMemoryTypeHost)
      cudaFreeHost(block->data);  // MLX has moved it to where the host reads it
    else
      cudaFree(block->data);
    delete block;
  }

 private:
  // In stream order, for MLX frees a block that it moves in that way; there when this
  // returns.
  static void* allocated(std::size_t size) {
    void* memory = nullptr;
    const bool is =
        cudaMallocAsync(&memory, size, cudaStreamPerThread) == cudaSuccess &&
        cudaStreamSynchronize(cudaStreamPerThread) == cudaSuccess;
    if (!is) cudaGetLastError();
    return is ? memory : nullptr;
  }

  // Gives all blocks that nobody has to the driver.
  void release() {
    cudaDeviceSynchronize();
    for (auto& [size, blocks] : free_) {
      for (CudaBuffer* block : blocks) {
        cudaFree(block->data);
        delete block;
      }
      blocks.clear();
    }
    kept_bytes_ = 0;
  }

  // What other allocators may miss: a sixteenth of the device's memory.
  static std::size_t most_kept() {
    static const std::size_t bytes = [] {
      std::size_t free = 0, total = 0;
      return cudaMemGetInfo(&free, &total) == cudaSuccess ? total / 16 : 0;
    }();
    return bytes;
  }

  std::mutex mutex_;
  std::map<std::size_t, std::vector<CudaBuffer*>> free_;
  std::size_t kept_bytes_ = 0;
};

bool has_pools() {
  static const bool answer = [] {
    int device = 0, supported = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported,
                                  device) == cudaSuccess &&
           supported != 0;
  }();
  return answer;
}

// Never destroyed: arrays may be given back when the program ends.
Blocks& blocks() {
  static Blocks& all = *new Blocks;
  return all;
}

}  // namespace

mx::allocator::Data device_memory(std::size_t bytes) {
  if (!has_pools()) return mx::allocator::malloc(bytes);

  return {mx::allocator::Buffer(blocks().take(bytes)),
          [](mx::allocator::Buffer buffer) {
            blocks().give_back(static_cast<CudaBuffer*>(buffer.ptr()));
          }};
}

}  // namespace optiq::kernels::cuda
