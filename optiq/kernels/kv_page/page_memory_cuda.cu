// Managed memory that is at home on the device: its kernels never wait for it, and the
// host reaches it page by page where it must (fallbacks, comparisons).
#include <cuda_runtime.h>

#include <map>
#include <mutex>
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

// What is given back is kept, up to so much: to make such memory takes a millisecond.
constexpr std::size_t kMostKept = std::size_t{512} << 20;

class CudaMemory : public PageMemory {
 public:
  std::byte* allocate(std::size_t bytes) const override {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = kept_.find(bytes); found != kept_.end()) {
        std::byte* const memory = found->second;
        kept_.erase(found);
        kept_bytes_ -= bytes;
        return memory;
      }
    }
    void* memory = nullptr;
    if (cudaMallocManaged(&memory, bytes) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    const cudaMemLocation home{cudaMemLocationTypeDevice, device()};
    // Where a system has no such advice, pages come when they are touched.
    // And all at once, for a kernel would wait for each by itself.
    if (cudaMemAdvise(memory, bytes, cudaMemAdviseSetPreferredLocation, home) !=
            cudaSuccess ||
        cudaMemPrefetchAsync(memory, bytes, home, 0, cudaStreamPerThread) !=
            cudaSuccess)
      cudaGetLastError();
    return static_cast<std::byte*>(memory);
  }
  void free(std::byte* memory, std::size_t bytes) const noexcept override {
    const std::lock_guard lock(mutex_);
    if (kept_bytes_ + bytes > kMostKept) {
      cudaFree(memory);
      return;
    }
    kept_.emplace(bytes, memory);
    kept_bytes_ += bytes;
  }
  std::size_t slab_bytes() const override { return std::size_t{64} << 20; }
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
    const std::lock_guard lock(mutex_);
    return free + kept_bytes_;
  }
  bool is_devices() const override { return true; }

 private:
  mutable std::mutex mutex_;
  mutable std::multimap<std::size_t, std::byte*> kept_;  // by size
  mutable std::size_t kept_bytes_ = 0;

  static int device() {
    int device = 0;
    check(cudaGetDevice(&device), "device");
    return device;
  }
};

}  // namespace

// Never destroyed: the driver has the memory back when the program ends.
const PageMemory* cuda_page_memory() {
  static const CudaMemory& memory = *new CudaMemory;
  return &memory;
}

}  // namespace optiq
