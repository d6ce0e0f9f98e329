// Allocation against exact dynamic programming, and its promises about the budget.
#include "optiq/sensitivity/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>

#include "optiq/sensitivity/swaps.h"

namespace optiq::sensitivity {
namespace {

struct Shape {
  int n_items;
  int max_params;
  double spread;  // of log sensitivity
  double noise;   // of log cost: above about 1, costs are no longer monotone
};

std::vector<Item> random_items(const Shape& shape, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<Item> items;
  for (int i = 0; i < shape.n_items; ++i) {
    Item item{"item " + std::to_string(i),
              1 + static_cast<int>(random() % shape.max_params),
              {},
              random() % 8 ? 1.0 : 3.0};
    const double sensitivity = std::exp(shape.spread * normal(random));
    for (int bits : {2, 3, 4, 5, 6, 8}) {
      if (random() % 10 == 0 && bits != 4) continue;
      const double cost =
          sensitivity * std::exp2(-2.0 * bits) * std::exp(shape.noise * normal(random));
      item.choices.push_back({QuantSpec{QuantMode::kAffine, bits, 64},
                              item.params * bits + (item.params + 3) / 4, cost});
    }
    std::ranges::shuffle(item.choices, random);
    items.push_back(std::move(item));
  }
  return items;
}

/// The least cost within `limit` units, by a table over units.
double exact_optimum(const std::vector<Item>& items, BudgetUnit unit,
                     std::int64_t limit) {
  const double none = std::numeric_limits<double>::infinity();
  std::vector<double> best(limit + 1, 0.0);
  for (const Item& item : items) {
    std::vector<double> next(limit + 1, none);
    for (const Choice& choice : item.choices) {
      const std::int64_t u = units(item, choice, unit);
      for (std::int64_t x = u; x <= limit; ++x)
        next[x] = std::min(next[x], best[x - u] + item.weight * choice.cost);
    }
    best = next;
  }
  return best[limit];
}

std::int64_t extreme_units(const std::vector<Item>& items, BudgetUnit unit,
                           bool largest) {
  std::int64_t sum = 0;
  for (const Item& item : items) {
    std::int64_t extreme = units(item, item.choices[0], unit);
    for (const Choice& choice : item.choices) {
      const std::int64_t u = units(item, choice, unit);
      extreme = largest ? std::max(extreme, u) : std::min(extreme, u);
    }
    sum += extreme;
  }
  return sum;
}

std::int64_t params_of(const std::vector<Item>& items) {
  std::int64_t sum = 0;
  for (const Item& item : items) sum += item.params;
  return sum;
}

void expect_promises(const std::vector<Item>& items, const Allocation& a) {
  std::int64_t used = 0;
  double cost = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Choice& choice = items[i].choices.at(a.choices[i]);
    used += units(items[i], choice, a.unit);
    cost += items[i].weight * choice.cost;
  }
  EXPECT_EQ(a.used, used);
  EXPECT_NEAR(a.cost, cost, 1e-12 * (1 + cost));
  EXPECT_LE(used, a.limit);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Choice& now = items[i].choices[a.choices[i]];
    for (const Choice& other : items[i].choices) {
      const bool useful = items[i].weight * other.cost < items[i].weight * now.cost;
      const std::int64_t extra =
          units(items[i], other, a.unit) - units(items[i], now, a.unit);
      EXPECT_TRUE(!useful || extra > a.limit - used)
          << "an upgrade of " << i << " fits";
    }
  }
}

TEST(Allocate, KeepsItsPromisesAndIsWithinOnePercentOfTheOptimum) {
  std::mt19937 random(1);
  double worst = 1;
  const Shape shapes[] = {{1, 5, 1, 0},    {2, 20, 1, 0},     {3, 20, 2, 0.5},
                          {5, 40, 1, 0},   {8, 3, 0.1, 0},    {12, 30, 2, 1.5},
                          {20, 9, 1, 0},   {40, 20, 1.2, 0},  {40, 8, 3, 1},
                          {40, 1, 0.3, 0}, {25, 60, 0.7, 0.3}};
  for (const Shape& shape : shapes)
    for (int trial = 0; trial < 12; ++trial) {
      const auto items = random_items(shape, random);
      for (BudgetUnit unit : {BudgetUnit::kBits, BudgetUnit::kBytes}) {
        const std::int64_t low = extreme_units(items, unit, false);
        const std::int64_t high = extreme_units(items, unit, true);
        const std::int64_t limit =
            low + static_cast<std::int64_t>(random() % (high - low + 2));
        const Budget budget =
            unit == BudgetUnit::kBytes
                ? Budget(TotalBytes{limit})
                : Budget(BitsPerWeight{static_cast<double>(limit) / params_of(items)});
        const Allocation a = allocate(items, budget);
        SCOPED_TRACE(std::to_string(shape.n_items) + " items, limit " +
                     std::to_string(limit));
        EXPECT_EQ(a.limit, limit);
        expect_promises(items, a);
        const double optimum = exact_optimum(items, unit, limit);
        EXPECT_LE(a.cost, 1.01 * optimum);
        EXPECT_LE(a.lower_bound, optimum * (1 + 1e-9));
        worst = std::max(worst, a.cost / optimum);
      }
    }
  RecordProperty("worst", std::to_string(worst));
}

TEST(Allocate, PutsAnEighthAtEightBitsForAnAverageOfFourAndAHalf) {
  std::vector<Item> items;
  for (int i = 0; i < 64; ++i)
    items.push_back({"layer",
                     1000,
                     {{QuantSpec{QuantMode::kAffine, 4, 64}, 562, 1.0 + i},
                      {QuantSpec{QuantMode::kAffine, 8, 64}, 1062, 0.001}}});
  const Allocation a = allocate(items, BitsPerWeight{4.5});
  for (int i = 0; i < 64; ++i) EXPECT_EQ(a.choices[i], i >= 56) << i;
  EXPECT_EQ(a.used, a.limit);
}

TEST(Allocate, MeetsABudgetThatIsExactlyTheSmallest) {
  // 4.1 and the like are not binary fractions; the sum must not fall below by rounding.
  for (int bits : {2, 3, 5, 6}) {
    std::vector<Item> items(
        7, {"x", 333, {{QuantSpec{QuantMode::kAffine, bits, 64}, 1, 1.0}}});
    EXPECT_EQ(allocate(items, BitsPerWeight{static_cast<double>(bits)}).used,
              bits * 333 * 7);
  }
}

TEST(Allocate, SaysTheSmallestBudgetThatWouldDo) {
  const std::vector<Item> items(3, {"x",
                                    100,
                                    {{QuantSpec{QuantMode::kAffine, 3, 64}, 44, 2.0},
                                     {QuantSpec{QuantMode::kAffine, 4, 64}, 56, 1.0}}});
  for (const Budget& budget : {Budget(BitsPerWeight{2.5}), Budget(TotalBytes{131})}) {
    try {
      allocate(items, budget);
      FAIL();
    } catch (const std::invalid_argument& error) {
      const std::string text = error.what();
      EXPECT_NE(
          text.find(unit_of(budget) == BudgetUnit::kBits ? "3.0000 bits" : "132 bytes"),
          std::string::npos)
          << text;
    }
  }
  EXPECT_EQ(allocate(items, TotalBytes{132}).used, 132);
}

TEST(Allocate, NeverTakesAWiderChoiceThatCostsMore) {
  std::vector<Item> items(2, {"x",
                              10,
                              {{QuantSpec{QuantMode::kAffine, 4, 64}, 5, 0.1},
                               {QuantSpec{QuantMode::kAffine, 5, 64}, 6, 0.3},
                               {QuantSpec{QuantMode::kAffine, 8, 64}, 9, 0.1}}});
  EXPECT_EQ(allocate(items, BitsPerWeight{8}).choices, (std::vector<int>{0, 0}));
}

TEST(Allocate, ProtectionGoesFirst) {
  std::vector<Item> items(4, {"x",
                              10,
                              {{QuantSpec{QuantMode::kAffine, 4, 64}, 5, 0.1},
                               {QuantSpec{QuantMode::kAffine, 8, 64}, 9, 0.0}}});
  items[2].weight = 100;
  EXPECT_EQ(allocate(items, BitsPerWeight{5}).choices, (std::vector<int>{0, 0, 1, 0}));
}

TEST(Allocate, RefusesWhatIsNotANumber) {
  const Item good{"x", 10, {{QuantSpec{QuantMode::kAffine, 4, 64}, 5, 0.1}}};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(allocate({}, BitsPerWeight{5}), std::invalid_argument);
  for (double bits : {nan, -1.0, 0.0, std::numeric_limits<double>::infinity()})
    EXPECT_THROW(allocate(std::vector<Item>{good}, BitsPerWeight{bits}),
                 std::invalid_argument);
  EXPECT_THROW(allocate(std::vector<Item>{good}, TotalBytes{-5}),
               std::invalid_argument);
  Item bad = good;
  bad.choices[0].cost = nan;
  EXPECT_THROW(allocate(std::vector<Item>{bad}, BitsPerWeight{5}),
               std::invalid_argument);
  bad = good;
  bad.choices.clear();
  EXPECT_THROW(allocate(std::vector<Item>{bad}, BitsPerWeight{5}),
               std::invalid_argument);
  bad = good;
  bad.params = 0;
  EXPECT_THROW(allocate(std::vector<Item>{bad}, BitsPerWeight{5}),
               std::invalid_argument);
}

TEST(Tie, SumsWhatAllMembersOffer) {
  const QuantSpec four{QuantMode::kAffine, 4, 64}, eight{QuantMode::kAffine, 8, 64};
  const std::vector<Item> items = {{"q", 10, {{four, 5, 0.5}, {eight, 9, 0.25}}, 2},
                                   {"up", 7, {{four, 4, 1}}},
                                   {"k", 4, {{eight, 4, 0.125}, {four, 2, 1}}}};
  const auto tied = tie(items, std::vector<std::vector<std::size_t>>{{2, 0}});
  ASSERT_EQ(tied.items.size(), 2u);
  EXPECT_EQ(tied.members, (std::vector<std::vector<std::size_t>>{{0, 2}, {1}}));
  const Item& merged = tied.items[0];
  EXPECT_EQ(merged.name, "q");
  EXPECT_EQ(merged.params, 14);
  EXPECT_EQ(merged.choices[0].bytes, 7);
  EXPECT_DOUBLE_EQ(merged.choices[0].cost, 2 * 0.5 + 1);
  EXPECT_DOUBLE_EQ(merged.choices[1].cost, 2 * 0.25 + 0.125);
  EXPECT_THROW(tie(items, std::vector<std::vector<std::size_t>>{{0, 1}, {1, 2}}),
               std::invalid_argument);
  EXPECT_THROW(tie(items, std::vector<std::vector<std::size_t>>{{3}}),
               std::invalid_argument);
  std::vector<Item> apart = items;
  apart[1].choices[0].spec = eight;
  apart[0].choices.pop_back();
  EXPECT_THROW(tie(apart, std::vector<std::vector<std::size_t>>{{0, 1}}),
               std::invalid_argument);
}

TEST(Swaps, StayWithinTheBudgetAndPredictTheirGain) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 20; ++trial) {
    const auto items = random_items({30, 50, 1.5, 0.5}, random);
    const Allocation a = allocate(items, BitsPerWeight{4.3});
    const auto swaps = swap_candidates(a, items, 25);
    ASSERT_EQ(swaps.size(), 25u);
    for (std::size_t s = 0; s < swaps.size(); ++s) {
      const Allocation after = apply(a, items, swaps[s]);
      EXPECT_LE(after.used, after.limit);
      EXPECT_EQ(after.used - a.used, swaps[s].extra_units);
      EXPECT_NEAR(a.cost - after.cost, swaps[s].predicted_gain, 1e-12);
      EXPECT_GE(swaps[s].changes.size(), 2u);
      // What is left to gain is at most the gap to the optimum.
      EXPECT_LE(swaps[s].predicted_gain, 2e-3 * a.cost);
      EXPECT_LE(swaps[s].predicted_gain, swaps[s > 0 ? s - 1 : 0].predicted_gain);
    }
  }
}

TEST(Swaps, FindTheImprovementOfABadAllocation) {
  const QuantSpec four{QuantMode::kAffine, 4, 64}, eight{QuantMode::kAffine, 8, 64};
  const std::vector<Item> items = {{"a", 10, {{four, 5, 1.0}, {eight, 9, 0.0}}},
                                   {"b", 10, {{four, 5, 0.1}, {eight, 9, 0.0}}}};
  Allocation bad{{0, 1}, BudgetUnit::kBits, 120, 120, 1.0, 0.0};
  const auto swaps = swap_candidates(bad, items, 5);
  ASSERT_FALSE(swaps.empty());
  EXPECT_NEAR(swaps[0].predicted_gain, 0.9, 1e-12);
  EXPECT_EQ(apply(bad, items, swaps[0]).choices, (std::vector<int>{1, 0}));
  bad.choices.pop_back();
  EXPECT_THROW(swap_candidates(bad, items, 5), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::sensitivity
