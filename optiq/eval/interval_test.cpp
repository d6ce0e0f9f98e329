#include "optiq/eval/interval.h"

#include <gtest/gtest.h>

#include <vector>

#include "optiq/eval/compare.h"

namespace optiq::eval {
namespace {

// Values of the closed form, computed by hand with z = 1.959964.
TEST(Wilson, TheIntervalHoldsTheShareAndNarrowsWithCases) {
  const Interval ten = wilson_interval(5, 10);
  EXPECT_NEAR(ten.low, 0.2366, 5e-5);
  EXPECT_NEAR(ten.high, 0.7634, 5e-5);
  const Interval all = wilson_interval(25, 25);
  EXPECT_NEAR(all.low, 0.8668, 5e-5);
  EXPECT_DOUBLE_EQ(all.high, 1.0);
  const Interval none = wilson_interval(0, 0);
  EXPECT_EQ(none.low, 0.0);
  EXPECT_EQ(none.high, 1.0);
}

// The normal approximation of 100 coins: 1.96 * sqrt(0.25 / 100) = 0.098.
TEST(Bootstrap, TheIntervalOfAShareIsThatOfItsVariance) {
  std::vector<Observation> coins;
  for (int i = 0; i < 100; ++i) coins.push_back({i % 2 == 0 ? 1.0 : 0.0, 1});
  const Estimate e = bootstrap(coins);
  EXPECT_DOUBLE_EQ(e.mean, 0.5);
  EXPECT_NEAR(e.interval.low, 0.402, 0.015);
  EXPECT_NEAR(e.interval.high, 0.598, 0.015);
  const Estimate again = bootstrap(coins);
  EXPECT_EQ(again.interval.low, e.interval.low);
  EXPECT_EQ(again.interval.high, e.interval.high);
}

TEST(Bootstrap, LongWindowsWeighMore) {
  const std::vector<Observation> windows = {{30, 10}, {2, 2}};
  const Estimate e = bootstrap(windows);
  EXPECT_DOUBLE_EQ(e.mean, 32.0 / 12);
  EXPECT_DOUBLE_EQ(e.interval.low, 1);   // the short one twice
  EXPECT_DOUBLE_EQ(e.interval.high, 3);  // the long one twice
}

TEST(Bootstrap, NothingAndOneObservationTellNoInterval) {
  EXPECT_EQ(bootstrap({}).mean, 0);
  const std::vector<Observation> one = {{6, 3}};
  EXPECT_EQ(bootstrap(one).interval.low, 2);
  EXPECT_EQ(bootstrap(one).interval.high, 2);
}

// Cases differ by nats, both models alike: only pairs show that one is worse.
TEST(Compare, PairsTakeOutWhatMakesACaseHard) {
  std::vector<CaseAnswer> reference(20), answers(20);
  for (int i = 0; i < 20; ++i) {
    auto& r = reference[static_cast<std::size_t>(i)];
    auto& a = answers[static_cast<std::size_t>(i)];
    r.nll = i;
    a.nll = i + 0.25;
    r.correct = i < 10;
    a.correct = i >= 2 && i < 11;
  }
  const CaseComparison c = compare(reference, answers);
  EXPECT_EQ(c.lost, 2);
  EXPECT_EQ(c.gained, 1);
  EXPECT_DOUBLE_EQ(c.accuracy.mean, -1.0 / 20);
  EXPECT_LT(c.accuracy.interval.low, c.accuracy.mean);
  EXPECT_GE(c.accuracy.interval.high, 0);
  EXPECT_DOUBLE_EQ(c.answer_nll.mean, 0.25);
  EXPECT_DOUBLE_EQ(c.answer_nll.interval.low, 0.25);
  EXPECT_DOUBLE_EQ(c.answer_nll.interval.high, 0.25);
}

}  // namespace
}  // namespace optiq::eval
