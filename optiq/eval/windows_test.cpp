#include "optiq/eval/windows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/eval/case_file.h"
#include "optiq/eval/kl.h"
#include "optiq/eval/perplexity.h"
#include "optiq/eval/token_scores.h"
#include "optiq/generate/loaded_model.h"

namespace optiq::eval {
namespace {

std::vector<int> counting(int n) {
  std::vector<int> ids(static_cast<std::size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

models::Model& demo() {
  static LoadedModel* const model = new LoadedModel(load("demo", {.text = false}));
  return *model->model;
}

TEST(Windows, TheLastWindowMayBeShortButHasTwoTokens) {
  const auto windows = cut_windows(counting(11), {.length = 5});
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1], (Window{5, 6, 7, 8, 9}));
  EXPECT_EQ(cut_windows(counting(12), {.length = 5}).back(), (Window{10, 11}));
  EXPECT_EQ(cut_windows(counting(12), {.length = 5, .count = 1}).size(), 1u);
  EXPECT_THROW(cut_windows(counting(1), {}), std::invalid_argument);
}

TEST(Windows, GatheringKeepsOrderAndTargets) {
  const std::vector<Window> windows = {{1, 2, 3}, {4, 5}, {6, 7, 8, 9}};
  const auto batches = gather(windows, 5);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[0].lengths, (std::vector<int>{3, 2}));
  EXPECT_EQ(batches[0].targets, (std::vector<int>{2, 3, -1, 5, -1}));
  EXPECT_EQ(batches[1].lengths, (std::vector<int>{4}));
}

TEST(TokenScores, AreTheLogSoftmaxAndTheGapToTheBestOther) {
  const mx::array logits({1.0f, 3.0f, 2.0f, 0.0f, 0.0f, 0.0f}, {2, 3});
  const auto scores = score_tokens(logits, std::vector<int>{1, 2});
  const double sum = std::exp(-2) + 1 + std::exp(-1);
  EXPECT_NEAR(scores[0].nll, std::log(sum), 1e-6);
  EXPECT_NEAR(scores[0].margin, 1.0, 1e-6);
  EXPECT_NEAR(scores[1].nll, std::log(3.0), 1e-6);
  EXPECT_NEAR(scores[1].margin, 0.0, 1e-6);
}

// A window's likelihood does not depend on the windows that share its call.
TEST(Perplexity, IsTheSameHoweverWindowsAreBatched) {
  const auto windows = cut_windows(counting(700), {.length = 100});
  PerplexityOptions options;
  options.forward.activation = kernels::Activation::kExact;
  const Perplexity together = measure_perplexity(demo(), windows, options);
  options.batch_tokens = 1;
  const Perplexity alone = measure_perplexity(demo(), windows, options);
  EXPECT_EQ(together.tokens, 7 * 99);
  EXPECT_EQ(together.windows, 7);
  // Rows in calls of other sizes are summed in other orders: float32 noise.
  EXPECT_NEAR(together.nll, alone.nll, 1e-5);
  EXPECT_NEAR(together.nll_error, alone.nll_error, 1e-5);
}

TEST(Kl, OfAModelFromItselfIsZero) {
  const auto windows = cut_windows(counting(256), {.length = 64});
  const KlResult result = measure_kl(demo(), demo(), windows);
  EXPECT_EQ(result.tokens, 256);
  EXPECT_LE(std::abs(result.kl.mean), 1e-9);
  EXPECT_LE(result.kl_p99, 1e-8);
  EXPECT_EQ(result.flip_rate.mean, 0.0);
  EXPECT_NEAR(result.nll, result.reference_nll, 1e-9);
}

class CaseFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) const {
    const auto path = std::filesystem::path(::testing::TempDir()) / "cases.jsonl";
    std::ofstream(path) << text;
    return path;
  }
};

constexpr const char* kGood =
    R"({"prompt": "a", "answer": "b", "scorer": "exact", "max_new_tokens": 4})";

TEST_F(CaseFile, DefaultsAreFilledAndBlankLinesPassedOver) {
  const auto cases = read_cases(write(std::string("\n") + kGood + "\n\n"));
  ASSERT_EQ(cases.size(), 1u);
  EXPECT_EQ(cases[0].target, "b");
  EXPECT_EQ(cases[0].id, "2");
  EXPECT_TRUE(cases[0].messages.is_null());
  EXPECT_FALSE(cases[0].enable_thinking);
}

TEST_F(CaseFile, WhatIsWrongIsNamedWithItsLine) {
  for (
      const char* bad :
      {"[]", "{", R"({"prompt": "a"})",
       R"({"prompt": "a", "answer": 1, "scorer": "exact", "max_new_tokens": 4})",
       R"({"prompt": "a", "answer": "b", "scorer": "f1", "max_new_tokens": 4})",
       R"({"prompt": "a", "answer": "b", "scorer": "exact", "max_new_tokens": 0})",
       R"({"prompt": "a", "answer": "b", "scorer": "exact", "max_new_tokens": 1e9})",
       R"({"answer": "b", "scorer": "exact", "max_new_tokens": 4})",
       R"({"messages": [], "answer": "b", "scorer": "exact", "max_new_tokens": 4})",
       R"({"messages": "x", "answer": "b", "scorer": "exact", "max_new_tokens": 4})"}) {
    SCOPED_TRACE(bad);
    try {
      read_cases(write(std::string(kGood) + "\n" + bad + "\n"));
      ADD_FAILURE();
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos)
          << error.what();
    }
  }
  EXPECT_THROW(read_cases(write("\n")), CheckpointError);
}

}  // namespace
}  // namespace optiq::eval
