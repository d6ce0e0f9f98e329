#include "optiq/quantize/packing.h"

#include <fmt/format.h>

#include <stdexcept>

namespace optiq::quantize {
namespace {

void check_sizes(std::size_t n_codes, std::size_t n_words, int bits) {
  if (bits >= 1 && bits <= 8 && n_codes * static_cast<unsigned>(bits) == n_words * 32)
    return;
  throw std::invalid_argument(fmt::format(
      "[packing] {} codes of {} bits do not fill {} words", n_codes, bits, n_words));
}

}  // namespace

void pack_codes(std::span<const std::uint8_t> codes, int bits,
                std::span<std::uint32_t> words) {
  check_sizes(codes.size(), words.size(), bits);
  const std::uint64_t mask = (1u << bits) - 1;
  std::uint64_t pending = 0;
  int n_pending = 0;
  std::size_t next = 0;
  for (std::uint8_t code : codes) {
    pending |= (code & mask) << n_pending;
    n_pending += bits;
    if (n_pending >= 32) {
      words[next++] = static_cast<std::uint32_t>(pending);
      pending >>= 32;
      n_pending -= 32;
    }
  }
}

void unpack_codes(std::span<const std::uint32_t> words, int bits,
                  std::span<std::uint8_t> codes) {
  check_sizes(codes.size(), words.size(), bits);
  const std::uint64_t mask = (1u << bits) - 1;
  std::uint64_t pending = 0;
  int n_pending = 0;
  std::size_t next = 0;
  for (std::uint8_t& code : codes) {
    if (n_pending < bits) {
      pending |= static_cast<std::uint64_t>(words[next++]) << n_pending;
      n_pending += 32;
    }
    code = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    n_pending -= bits;
  }
}

}  // namespace optiq::quantize
