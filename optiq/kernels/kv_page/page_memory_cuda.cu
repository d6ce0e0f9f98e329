// Managed memory that is at home on the device: its kernels never wait for it, and the
// host reaches it page by page where it must (fallbacks, comparisons).
#include <cuda_runtime.h>

#include <string>

#include "optiq/base/error.h"
#include "optiq/kernels/kv_page/page_memory.h"

namespace optiq {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw ResourceError(std::string("key-value cache: ") + what + ": " +
                        cudaGetErrorString(error));
}

class CudaMemory : public PageMemory {
 public:
  std::byte* allocate(std::size_t bytes) const override {
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, bytes) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    const cudaMemLocation home{cudaMemLocationTypeDevice, device()};
    // Where a system has no such advice, pages come when they are touched.
    if (cudaMemAdvise(memory, bytes, cudaMemAdviseSetPreferredLocation, home) !=
        cudaSuccess)
      cudaGetLastError();
    return static_cast<std::byte*>(memory);
  }
  void free(std::byte* memory, std::size_t) const noexcept override {
    cudaFree(memory);
  }
  bool starts_zero() const override { return false; }
  void zero(std::byte* at, std::size_t bytes) const override {
    check(cudaMemsetAsync(at, 0, bytes, cudaStreamPerThread), "clearing a page");
    check(cudaStreamSynchronize(cudaStreamPerThread), "clearing a page");
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) const override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cudaStreamPerThread),
          "copying a page");
    check(cudaStreamSynchronize(cudaStreamPerThread), "copying a page");
  }
  std::uint64_t available_bytes() const override {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "device memory");
    return free;
  }
  bool is_devices() const override { return true; }

 private:
  static int device() {
    int device = 0;
    check(cudaGetDevice(&device), "device");
    return device;
  }
};

}  // namespace

const PageMemory* cuda_page_memory() {
  static const CudaMemory memory;
  return &memory;
}

}  // namespace optiq
