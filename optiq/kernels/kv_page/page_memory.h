// Where pages of keys and values lie: in the host's memory, or a CUDA device's.
#pragma once
#include <cstddef>
#include <cstdint>

namespace optiq {

/// A kind of memory. The host may always touch it, between kernels.
///
/// Threads   any
class PageMemory {
 public:
  virtual ~PageMemory() = default;

  /// Memory at a multiple of 64 bytes, of zeros if starts_zero(); null where there is
  /// no more.
  virtual std::byte* allocate(std::size_t bytes) const = 0;
  virtual void free(std::byte* memory, std::size_t bytes) const noexcept = 0;
  virtual bool starts_zero() const = 0;

  /// About how much to take at a time.
  virtual std::size_t slab_bytes() const { return std::size_t{4} << 20; }

  virtual void zero(std::byte* at, std::size_t bytes) const = 0;
  virtual void copy(std::byte* to, const std::byte* from, std::size_t bytes) const = 0;

  /// What may still be taken.
  virtual std::uint64_t available_bytes() const = 0;

  /// True if a CUDA device's kernels read it as fast as they can.
  virtual bool is_devices() const = 0;
};

const PageMemory& host_page_memory();

/// Null in builds without CUDA.
const PageMemory* cuda_page_memory();

}  // namespace optiq
