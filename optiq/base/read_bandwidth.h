// How fast this machine reads memory, measured beside what depends on it.
#pragma once
#include <cstddef>

namespace optiq {

/// A block of memory larger than caches, to read again and again.
class ReadBandwidth {
 public:
  /// Cost      `size` bytes for as long as it lives, in large pages where there are.
  explicit ReadBandwidth(std::size_t size = std::size_t{512} << 20);
  ReadBandwidth(const ReadBandwidth&) = delete;
  ReadBandwidth& operator=(const ReadBandwidth&) = delete;
  ~ReadBandwidth();

  /// The rate at which all threads together read the next `piece` bytes (0: the whole
  /// block): each from a run of its own, asking ahead as our kernels do.
  ///
  /// Units     bytes per second
  double measure(std::size_t piece = 0);

  /// The median of some measurements of the whole block.
  double median();

 private:
  char* data_;
  std::size_t size_;
  std::size_t next_ = 0;
};

}  // namespace optiq
