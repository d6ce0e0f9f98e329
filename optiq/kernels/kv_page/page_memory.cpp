#include "optiq/kernels/kv_page/page_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "optiq/base/memory.h"

namespace optiq {
namespace {

class HostMemory : public PageMemory {
 public:
  std::byte* allocate(std::size_t bytes) const override {
    void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
  }
  void free(std::byte* memory, std::size_t bytes) const noexcept override {
    ::munmap(memory, bytes);
  }
  bool starts_zero() const override { return true; }
  void zero(std::byte* at, std::size_t bytes) const override {
    std::memset(at, 0, bytes);
  }
  void copy(std::byte* to, const std::byte* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  std::uint64_t available_bytes() const override { return available_memory_bytes(); }
  bool is_devices() const override { return false; }
};

}  // namespace

const PageMemory& host_page_memory() {
  static const HostMemory memory;
  return memory;
}

#ifndef OPTIQ_CUDA
const PageMemory* cuda_page_memory() { return nullptr; }
#endif

}  // namespace optiq
