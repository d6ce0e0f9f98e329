#include "optiq/eval/scoring.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace optiq::eval
