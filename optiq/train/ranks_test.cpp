#include "optiq/train/ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace optiq::train {
namespace {

std::vector<RankedLayer> layers() {
  return {{"a", 256, 256, 4, 0.01, 3.0},
          {"b", 256, 768, 8, 0.04, 1.0},
          {"c", 768, 256, 4, 0.002, 0.5},
          {"d", 256, 512, 16, 0, 0.1}};
}

std::int64_t cost(const std::vector<RankedLayer>& all, const std::vector<int>& ranks) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < all.size(); ++i) sum += all[i].parameters(ranks[i]);
  return sum;
}

TEST(Ranks, ByBitsGivesEightBitLayersTwiceTheRank) {
  EXPECT_EQ(choose_ranks(layers(), {RankScaling::kByBits, 8}),
            (std::vector<int>{8, 16, 8, 8}));
  EXPECT_EQ(choose_ranks(layers(), {RankScaling::kConstant, 8}),
            (std::vector<int>{8, 8, 8, 8}));
}

TEST(Ranks, ByKlIsClampedAroundTheMedian) {
  // The median of 0.002, 0.01 and 0.04 is 0.01: 1, 2 (clamped), 0.5 (clamped), none.
  EXPECT_EQ(choose_ranks(layers(), {RankScaling::kByKl, 8}),
            (std::vector<int>{8, 16, 4, 8}));
  auto none = layers();
  for (RankedLayer& layer : none) layer.kl = 0;
  EXPECT_THROW(choose_ranks(none, {RankScaling::kByKl, 8}), std::invalid_argument);
}

TEST(Ranks, NoModeExceedsTheBudgetOfTheConstantRank) {
  const auto all = layers();
  for (const RankScaling scaling : {RankScaling::kByBits, RankScaling::kByKl,
                                    RankScaling::kByGrad, RankScaling::kConstant})
    for (const int base : {1, 2, 8, 64})
      for (const bool permuted : {false, true}) {
        const auto ranks =
            choose_ranks(all, {scaling, base, /*same_budget=*/true, permuted, 3});
        const std::int64_t budget = cost(all, std::vector<int>(all.size(), base));
        const std::int64_t least =
            cost(all, std::vector<int>(all.size(), std::min(2, base)));
        EXPECT_LE(cost(all, ranks), std::max(budget, least));
        if (base >= 8) EXPECT_GT(cost(all, ranks), budget * 9 / 10);
        for (const int rank : ranks) {
          EXPECT_GE(rank, std::min(2, base));
          EXPECT_LE(rank, 4 * base);
        }
      }
}

TEST(Ranks, ByGradFollowsTheScores) {
  const auto ranks = choose_ranks(layers(), {RankScaling::kByGrad, 8});
  EXPECT_GT(ranks[0], ranks[1]);
  EXPECT_GT(ranks[1], ranks[2]);
  EXPECT_GE(ranks[2], ranks[3]);
}

TEST(Ranks, APermutationDealsTheSameRanksToOtherLayers) {
  std::vector<RankedLayer> many;
  for (int i = 0; i < 30; ++i) many.push_back({"x", 64, 64, i < 10 ? 8 : 4});
  auto plain = choose_ranks(many, {RankScaling::kByBits, 8});
  auto dealt = choose_ranks(many, {RankScaling::kByBits, 8, false, true, 5});
  EXPECT_NE(plain, dealt);
  std::sort(plain.begin(), plain.end());
  std::sort(dealt.begin(), dealt.end());
  EXPECT_EQ(plain, dealt);
}

}  // namespace
}  // namespace optiq::train
