#include "optiq/generate/engine/prefill_cut.h"

#include <gtest/gtest.h>

#include <vector>

namespace optiq::generation {
namespace {

std::vector<int> ends(int begin, int length, int rows, bool recurrent,
                      const std::vector<int>& stops = {}) {
  std::vector<int> all;
  while (begin < length) {
    begin = cut_end(begin, length, rows, recurrent, stops);
    all.push_back(begin);
  }
  return all;
}

TEST(PrefillCut, CallsOfRecurrentLayersEndAtMultiplesWhateverTheLoad) {
  for (const int rows : {1, 63, 64, 100, 512})
    for (const int length : {1, 64, 65, 128, 1000})
      for (const int end : ends(0, length, rows, true))
        EXPECT_TRUE(end % kCutTokens == 0 || end == length) << rows << " " << length;
}

TEST(PrefillCut, TheLastTokensAreACallOfTheirOwn) {
  EXPECT_EQ(ends(0, 1000, 512, true), (std::vector<int>{512, 960, 1000}));
  EXPECT_EQ(ends(0, 1024, 512, true), (std::vector<int>{512, 960, 1024}));
  EXPECT_EQ(ends(960, 1000, 512, true), (std::vector<int>{1000}));
  EXPECT_EQ(ends(0, 1000, 512, false), (std::vector<int>{512, 1000}));
}

TEST(PrefillCut, ACallStopsWhereACopyIsKept) {
  EXPECT_EQ(ends(0, 1000, 512, true, {128, 640}),
            (std::vector<int>{128, 640, 960, 1000}));
}

TEST(PrefillCut, ACallFromBetweenCutsComesBackToThem) {
  EXPECT_EQ(ends(70, 300, 64, true), (std::vector<int>{192, 256, 300}));
  EXPECT_EQ(ends(290, 300, 64, true), (std::vector<int>{300}));
}

}  // namespace
}  // namespace optiq::generation
