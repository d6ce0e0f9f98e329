// SHA-256 of bytes as they come.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace optiq::checkpoint {

/// Source    FIPS 180-4, sections 5 and 6.2.
class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  std::string hex();  // of all bytes; update() no more after it

 private:
  void block(const std::byte* bytes);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t size_ = 0;
};

}  // namespace optiq::checkpoint
