// Codes survive packing at every width, and lie where MLX looks for them.
#include "optiq/quantize/packing.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>
#include <vector>

namespace optiq::quantize {
namespace {

TEST(Packing, ReturnsEveryCodeAtEveryWidth) {
  std::mt19937 random(1);
  for (int bits = 1; bits <= 8; ++bits)
    for (std::size_t n : {32, 96, 4096}) {
      std::vector<std::uint8_t> codes(n), back(n);
      for (auto& code : codes)
        code = static_cast<std::uint8_t>(random() % (1u << bits));
      std::vector<std::uint32_t> words(n * bits / 32);
      pack_codes(codes, bits, words);
      unpack_codes(words, bits, back);
      EXPECT_EQ(back, codes) << bits << " bits";
    }
}

TEST(Packing, FillsWordsFromTheLowestBit) {
  std::vector<std::uint8_t> codes(32, 0);
  codes[1] = 5;   // bits 3..5
  codes[10] = 7;  // bits 30..32: crosses into the second word
  std::vector<std::uint32_t> words(3);
  pack_codes(codes, 3, words);
  EXPECT_EQ(words, (std::vector<std::uint32_t>{5u << 3 | 3u << 30, 1u, 0u}));
}

TEST(Packing, RefusesSizesThatDoNotMatch) {
  std::vector<std::uint8_t> codes(32);
  std::vector<std::uint32_t> words(4);
  EXPECT_THROW(pack_codes(codes, 3, words), std::invalid_argument);
  EXPECT_THROW(pack_codes(codes, 0, {}), std::invalid_argument);
  EXPECT_THROW(unpack_codes(words, 9, codes), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::quantize
