#include "optiq/checkpoint/finite.h"

#include <algorithm>
#include <cstring>

namespace optiq::checkpoint {
namespace {

// True if any element has all bits of `mask` set. Branches once per block, so that the
// compiler turns the inner loop into vector instructions.
template <typename T>
std::optional<std::uint64_t> find_all_set(std::span<const std::byte> bytes, T mask) {
  constexpr std::size_t kBlock = 1024;
  const std::size_t count = bytes.size() / sizeof(T);
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t n = std::min(kBlock, count - begin);
    T values[kBlock];  // the bytes need not be aligned
    std::memcpy(values, bytes.data() + begin * sizeof(T), n * sizeof(T));
    T found = 0;
    for (std::size_t i = 0; i < n; ++i) found |= (values[i] & mask) == mask ? 1 : 0;
    if (found == 0) continue;
    for (std::size_t i = 0; i < n; ++i)
      if ((values[i] & mask) == mask) return begin + i;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::uint64_t> find_not_finite(std::span<const std::byte> bytes,
                                             DataType dtype) {
  switch (dtype) {  // exponent of all ones
    case DataType::kBF16:
      return find_all_set<std::uint16_t>(bytes, 0x7F80);
    case DataType::kF16:
      return find_all_set<std::uint16_t>(bytes, 0x7C00);
    case DataType::kF32:
      return find_all_set<std::uint32_t>(bytes, 0x7F800000);
    case DataType::kF64:
      return find_all_set<std::uint64_t>(bytes, 0x7FF0000000000000);
    default:
      return std::nullopt;
  }
}

std::optional<std::uint64_t> find_nan_scale(std::span<const std::byte> bytes,
                                            QuantMode mode) {
  switch (mode) {
    case QuantMode::kMxfp4:
    case QuantMode::kMxfp8:
      return find_all_set<std::uint8_t>(bytes, 0xFF);
    case QuantMode::kNvfp4:
      return find_all_set<std::uint8_t>(bytes, 0x7F);
    case QuantMode::kAffine:
      break;
  }
  return std::nullopt;
}

}  // namespace optiq::checkpoint
