#include "optiq/checkpoint/borrowed_array.h"

#include <cstring>

namespace optiq::checkpoint {
namespace {

// MLX's CPU allocator keeps a block's size in the eight bytes before the data, and a
// Buffer points to that size. Its public constructor over foreign memory copies there,
// while a Buffer placed eight bytes early gives exactly our pointer. The layout is not
// promised, so one real allocation shows whether it holds; other back ends use the
// constructor.
bool buffers_start_with_their_size() {
  static const bool answer = [] {
    constexpr std::size_t kBytes = 48;
    const mx::allocator::Data probe = mx::allocator::malloc(kBytes);
    mx::allocator::Buffer buffer = probe.buffer();
    const auto* begin = static_cast<const std::byte*>(buffer.ptr());
    const auto* data = static_cast<const std::byte*>(buffer.raw_ptr());
    if (data != begin + kBorrowedPrefixBytes) return false;
    std::size_t size = 0;
    std::memcpy(&size, begin, sizeof size);
    return size == kBytes;
  }();
  return answer;
}

// What a Buffer of MLX's allocator for CUDA points to, as one real allocation shows.
struct DeviceBlock {
  void* data;
  std::size_t size;
  int device;  // -1: of the host as well
};
bool buffers_point_to_blocks() {
  static const bool answer = [] {
    constexpr std::size_t kBytes = 48;
    const mx::allocator::Data probe = mx::allocator::malloc(kBytes);
    mx::allocator::Buffer buffer = probe.buffer();
    DeviceBlock block;
    if (buffer.ptr() == buffer.raw_ptr()) return false;
    std::memcpy(&block, buffer.ptr(), sizeof block);
    return block.data == buffer.raw_ptr() && block.size >= kBytes &&
           block.size < 2 * kBytes && block.device == -1;
  }();
  return answer;
}

}  // namespace

mx::array borrowed_array(const std::byte* data, mx::Shape shape, mx::Dtype dtype,
                         std::shared_ptr<const void> owner, bool for_host) {
  auto* bytes = const_cast<std::byte*>(data);
  if (buffers_start_with_their_size())
    return mx::array(
        mx::allocator::Data(mx::allocator::Buffer(bytes - kBorrowedPrefixBytes),
                            [owner = std::move(owner)](mx::allocator::Buffer) {}),
        std::move(shape), dtype);
  if (for_host && buffers_point_to_blocks()) {
    std::size_t size = dtype.size();
    for (const int n : shape) size *= static_cast<std::size_t>(n);
    return mx::array(
        mx::allocator::Data(mx::allocator::Buffer(new DeviceBlock{bytes, size, -1}),
                            [owner = std::move(owner)](mx::allocator::Buffer buffer) {
                              delete static_cast<DeviceBlock*>(buffer.ptr());
                            }),
        std::move(shape), dtype);
  }
  return mx::array(bytes, std::move(shape), dtype,
                   [owner = std::move(owner)](void*) {});
}

}  // namespace optiq::checkpoint
