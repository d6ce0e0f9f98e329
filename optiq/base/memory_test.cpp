#include "optiq/base/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace optiq {
namespace {

TEST(Memory, ThePeakCountsMemoryThatWasTouched) {
  const std::uint64_t before = peak_rss_bytes();
  constexpr std::size_t kBytes = 64 << 20;
  {
    std::vector<char> block(kBytes, 1);
    EXPECT_GE(current_rss_bytes(), kBytes);
  }
  EXPECT_GE(peak_rss_bytes() + (1 << 20), std::max<std::uint64_t>(before, kBytes));
}

TEST(Memory, AvailableIsPartOfPhysical) {
  EXPECT_GT(available_memory_bytes(), 0u);
  EXPECT_LE(available_memory_bytes(), physical_memory_bytes());
}

}  // namespace
}  // namespace optiq
