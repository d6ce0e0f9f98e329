#include "optiq/eval/scoring.h"

#include <gtest/gtest.h>

#include "optiq/eval/wilson.h"

namespace optiq::eval {
namespace {

bool correct(const char* scorer, std::string_view output, std::string_view answer) {
  return is_correct(*find_scorer(scorer), output, answer);
}

TEST(Scoring, ExactIgnoresSpaceAroundAndWhatFollowsTheEnd) {
  EXPECT_TRUE(correct("exact", " a -> b \n", "a -> b"));
  EXPECT_TRUE(correct("exact", "a -> b<|im_end|>\nmore", "a -> b"));
  EXPECT_FALSE(correct("exact", "a  -> b", "a -> b"));
  EXPECT_FALSE(correct("exact", "", "a"));
}

TEST(Scoring, HashNumberTakesTheLastNumberWithoutCommas) {
  EXPECT_TRUE(correct("hash_number", "so #### 1,234.", "1234"));
  EXPECT_TRUE(correct("hash_number", "#### 1 then\n####-5", "-5"));
  EXPECT_TRUE(correct("hash_number", "##### 7", "7"));
  EXPECT_FALSE(correct("hash_number", "#### 1 then #### 2", "1"));
  EXPECT_FALSE(correct("hash_number", "the answer is 5", "5"));
  EXPECT_FALSE(correct("hash_number", "####", "5"));
  EXPECT_FALSE(correct("hash_number", "#### -", "-"));
}

TEST(Scoring, JsonComparesValuesNotText) {
  EXPECT_TRUE(correct("json", " {\"b\": 2.0, \"a\": [1]}", R"({"a":[1],"b":2})"));
  EXPECT_FALSE(correct("json", R"({"a": 1} tail)", R"({"a":1})"));
  EXPECT_FALSE(correct("json", "", ""));
}

TEST(Scoring, ToolReadsTheFirstCall) {
  const char* answer = R"({"name":"f","arguments":{"x":1}})";
  EXPECT_TRUE(correct("tool",
                      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n"
                      "</tool_call>",
                      answer));
  EXPECT_FALSE(correct("tool", R"({"name":"f","arguments":{"x":1}})", answer));
  EXPECT_FALSE(correct("tool", "<tool_call>{}</tool_call>", answer));
  EXPECT_FALSE(correct("tool", "<tool_call>{", answer));
}

TEST(Scoring, AnUnknownScorerIsNotFound) { EXPECT_EQ(find_scorer("f1"), nullptr); }

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

}  // namespace
}  // namespace optiq::eval
