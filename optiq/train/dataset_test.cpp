#include "optiq/train/dataset.h"

#include <gtest/gtest.h>

#include "optiq/checkpoint/testing.h"
#include "optiq/generate/generate.h"

namespace optiq::train {
namespace {

using checkpoint::expect_mentions;
using checkpoint::message_of;
using checkpoint::TemporaryDirectory;
using checkpoint::write_text;

const LoadedModel& demo() {
  static const auto* const model = new LoadedModel(load("demo"));
  return *model;
}

class Data : public ::testing::Test {
 protected:
  std::vector<Example> read(const std::string& lines, DataOptions options = {}) {
    write_text(directory_ / "train.jsonl", lines);
    return read_examples(directory_ / "train.jsonl", demo(), options);
  }
  std::string error(const std::string& lines) {
    return message_of<CheckpointError>([&] { read(lines); });
  }
  // The text of the tokens that are learnt.
  static std::string learnt(const Example& example) {
    std::vector<int> ids;
    for (std::size_t i = 0; i < example.tokens.size(); ++i)
      if (example.learnt[i]) ids.push_back(example.tokens[i]);
    return demo().tokenizer->decode(ids);
  }

  TemporaryDirectory directory_;
};

constexpr const char* kChat =
    R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "first"},
 {"role": "user", "content": "more"}, {"role": "assistant", "content": "second"}]})";

std::string one_line(std::string text) {
  std::erase(text, '\n');
  return text;
}

TEST_F(Data, ThreeFormsAreReadAndAllOfThemLearnt) {
  const auto all =
      read(one_line(kChat) + "\n\n" + R"({"prompt": "2+3?", "completion": "5"})" +
           "\n" + R"({"text": "plain words"})" + "\n");
  ASSERT_EQ(all.size(), 3u);
  for (const Example& example : all) {
    EXPECT_EQ(example.learnt.size(), example.tokens.size());
    EXPECT_EQ(example.learnt[0], 0);
    EXPECT_EQ(example.n_learnt(), int(example.tokens.size()) - 1);
  }
  EXPECT_NE(learnt(all[1]).find("5"), std::string::npos);
  EXPECT_TRUE(demo().eos_ids.contains(all[2].tokens.back()));
}

TEST_F(Data, OnlyTheLastAnswerIsLearntWhereAsked) {
  const auto all = read(one_line(kChat), {LearnFrom::kLastAnswer});
  const std::string text = learnt(all[0]);
  EXPECT_NE(text.find("second"), std::string::npos);
  EXPECT_NE(text.find("<|im_end|>"), std::string::npos);  // when to stop, too
  EXPECT_EQ(text.find("first"), std::string::npos);
  EXPECT_EQ(text.find("more"), std::string::npos);
}

TEST_F(Data, EveryAnswerIsLearntAndNoQuestion) {
  const auto all = read(one_line(kChat), {LearnFrom::kAnswers});
  const std::string text = learnt(all[0]);
  EXPECT_NE(text.find("first"), std::string::npos);
  EXPECT_NE(text.find("second"), std::string::npos);
  EXPECT_EQ(text.find("hi"), std::string::npos);
  EXPECT_EQ(text.find("more"), std::string::npos);
}

TEST_F(Data, ToolCallsMayHaveTheirArgumentsAsText) {
  const auto all = read(one_line(R"({"messages": [{"role": "user", "content": "time?"},
{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function":
 {"name": "clock", "arguments": "{\"zone\": \"utc\"}"}}]}],
 "tools": [{"type": "function", "function": {"name": "clock", "description": "tells the time",
 "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}]})"),
                        {LearnFrom::kLastAnswer});
  EXPECT_NE(learnt(all[0]).find("clock"), std::string::npos);
  EXPECT_NE(learnt(all[0]).find("utc"), std::string::npos);
}

TEST_F(Data, LongLinesAreCut) {
  EXPECT_EQ(read(one_line(kChat), {LearnFrom::kAll, 7})[0].tokens.size(), 7u);
}

TEST_F(Data, MistakesNameFileAndLine) {
  const std::string good = R"({"text": "x y"})";
  expect_mentions(error(good + "\nnonsense\n"), {"train.jsonl:2", "JSON"});
  expect_mentions(error("[1]\n"), {"train.jsonl:1", "object"});
  expect_mentions(error(R"({"prompt": "only"})"), {"train.jsonl:1", "messages"});
  expect_mentions(error(R"({"messages": []})"), {"train.jsonl:1", "messages"});
  expect_mentions(error(R"({"messages": [{"content": "x"}]})"),
                  {"train.jsonl:1", "role"});
  expect_mentions(error(R"({"text": 5})"), {"train.jsonl:1", "text"});
  expect_mentions(error(R"({"prompt": 1, "completion": "x"})"),
                  {"train.jsonl:1", "prompt"});
  expect_mentions(error("\n"), {"train.jsonl", "found none"});
}

}  // namespace
}  // namespace optiq::train
