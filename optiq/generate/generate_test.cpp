#include "optiq/generate/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/generate/session.h"

namespace optiq {
namespace {

// One model for all tests: none of them changes it.
LoadedModel& demo() {
  static LoadedModel* const model = new LoadedModel(load("demo"));
  return *model;
}

nlohmann::ordered_json question(const std::string& text) {
  return nlohmann::ordered_json::array({{{"role", "user"}, {"content", text}}});
}

Request ask(const std::string& text) {
  Request request;
  request.prompt = encode_chat(demo(), question(text));
  request.max_tokens = 40;
  return request;
}

std::vector<float> values(const mlx::core::array& x) {
  return {x.data<float>(), x.data<float>() + x.size()};
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
  return difference;
}

TEST(Generate, AnswersUntilTheModelEndsAndLeavesItsEndTokenOut) {
  const GenerateResult result = generate(demo(), ask("What is 50 * 6?"));
  EXPECT_EQ(result.text, "50 * 6 = 300\n#### 300");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_EQ(demo().tokenizer->decode(result.tokens), result.text);
  EXPECT_EQ(result.completion_tokens, static_cast<int>(result.tokens.size()));
}

TEST(Generate, WhatIsShownTokenByTokenIsTheText) {
  std::string shown;
  std::vector<int> ids;
  const GenerateResult result =
      generate(demo(), ask("What is 50 * 6?"), [&](const GeneratedToken& token) {
        shown += token.text;
        ids.push_back(token.id);
        return true;
      });
  EXPECT_EQ(shown, result.text);
  EXPECT_EQ(ids, result.tokens);
}

TEST(Generate, TheLimitsEndTheAnswer) {
  Request request = ask("Tell me about the sea.");
  request.ignore_eos = true;
  request.max_tokens = 5;
  EXPECT_EQ(generate(demo(), request).tokens.size(), 5u);
  EXPECT_EQ(generate(demo(), request).finish_reason, FinishReason::kLength);
  request.max_tokens = 0;
  EXPECT_TRUE(generate(demo(), request).tokens.empty());
}

TEST(Generate, StopIdsAndStopStringsAreLeftOut) {
  Request request = ask("What is 50 * 6?");
  const std::vector<int> whole = generate(demo(), request).tokens;
  request.stop_ids = {whole[3]};
  const GenerateResult by_id = generate(demo(), request);
  EXPECT_EQ(by_id.finish_reason, FinishReason::kStop);
  EXPECT_LE(by_id.tokens.size(), 3u);
  request.stop_ids.clear();
  request.stop_strings = {" = "};
  const GenerateResult by_text = generate(demo(), request);
  EXPECT_EQ(by_text.text, "50 * 6");
  EXPECT_EQ(by_text.finish_reason, FinishReason::kStop);
}

TEST(Generate, TheCallerEndsTheAnswer) {
  int calls = 0;
  const GenerateResult result =
      generate(demo(), ask("What is 50 * 6?"),
               [&](const GeneratedToken&) { return ++calls < 3; });
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(result.tokens.size(), 3u);
}

TEST(Generate, AnInterruptKeepsWhatWasProduced) {
  const GenerateResult result =
      generate(demo(), ask("What is 50 * 6?"), [&](const GeneratedToken&) {
        request_interrupt();
        return true;
      });
  EXPECT_EQ(result.finish_reason, FinishReason::kInterrupted);
  EXPECT_EQ(result.tokens.size(), 1u);
  EXPECT_THROW(generate(demo(), ask("What is 50 * 6?")), Interrupted);
  clear_interrupt();
}

TEST(Generate, TheContextIsALimitForPromptsAndAnswers) {
  const int limit = demo().model->config().max_position_embeddings;
  Request request;
  request.ignore_eos = true;
  request.max_tokens = 100;
  request.prompt.assign(static_cast<std::size_t>(limit - 2), 5);
  // Two more tokens are taken in; the third is chosen and has no place.
  EXPECT_EQ(generate(demo(), request).tokens.size(), 3u);
  request.prompt.assign(static_cast<std::size_t>(limit + 1), 5);
  EXPECT_THROW(generate(demo(), request), std::invalid_argument);
  request.prompt.clear();
  EXPECT_THROW(generate(demo(), request), std::invalid_argument);
}

TEST(Generate, AContinuedSessionAnswersAsAFreshOne) {
  Request first = ask("What is 50 * 6?");
  first.exact = true;
  generation::Session session = new_session(demo(), first);
  const GenerateResult answer = generate(demo(), session, first);
  auto messages = question("What is 50 * 6?");
  messages.push_back({{"role", "assistant"}, {"content", answer.text}});
  messages.push_back({{"role", "user"}, {"content", "What number comes after 2605?"}});
  Request second = first;
  second.prompt = encode_chat(demo(), messages);
  const int held = session.length();
  EXPECT_EQ(generate(demo(), session, second).tokens, generate(demo(), second).tokens);
  EXPECT_GT(session.length(), held);
}

TEST(Generate, ASessionRefusesAnotherPrompt) {
  Request request = ask("What is 50 * 6?");
  generation::Session session = new_session(demo(), request);
  generate(demo(), session, request);
  EXPECT_THROW(generate(demo(), session, ask("Hello")), std::invalid_argument);
}

// Rows are sums in float32 whichever call they are in; chunks change the order of sums
// in the recurrent state only: well within a thousandth of logits that reach 30.
TEST(Session, ChunksOfAnySizeGiveTheSameLogits) {
  const std::vector<int> prompt =
      ask("What is the history of the Roman Empire?").prompt;
  const auto logits = [&](int chunk) {
    auto options = generation::exact_session();
    options.chunk = chunk;
    generation::Session session(*demo().model, options);
    return values(session.feed(prompt));
  };
  const auto whole = logits(512);
  for (int chunk : {1, 3, 7, 16})
    EXPECT_LE(max_difference(logits(chunk), whole), 1e-3) << chunk;
}

TEST(Session, AllRowsEndInTheLastOne) {
  const std::vector<int> prompt = ask("Hello").prompt;
  generation::Session one(*demo().model, generation::exact_session());
  const auto last = values(one.feed(prompt));
  auto options = generation::exact_session();
  options.chunk = 4;
  generation::Session all(*demo().model, options);
  int rows = 0;
  std::vector<float> final_row;
  all.feed_all(prompt, [&](int first, const mlx::core::array& logits) {
    EXPECT_EQ(first, rows);
    rows += logits.shape(0);
    const auto v = values(logits);
    final_row.assign(v.end() - logits.shape(1), v.end());
  });
  EXPECT_EQ(rows, static_cast<int>(prompt.size()));
  EXPECT_LE(max_difference(final_row, last), 1e-3);
}

TEST(Session, IdsOutsideOfTheVocabularyAreRefusedByPlace) {
  generation::Session session(*demo().model, generation::exact_session());
  const std::vector<int> ids = {1, 2, 8192};
  try {
    session.feed(ids);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("token 2"), std::string::npos);
  }
}

}  // namespace
}  // namespace optiq
