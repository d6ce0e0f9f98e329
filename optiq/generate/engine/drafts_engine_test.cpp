// Guesses in the engine: the same answers in fewer steps, whoever answers beside them.
#include "optiq/generate/engine/testing.h"

namespace optiq::generation {
namespace {

// Text that repeats itself, each in a way of its own.
std::vector<int> repeating(int n, int seed) {
  std::vector<int> ids;
  for (int i = 0; i < n; ++i) ids.push_back(3 + (i % (5 + seed)) * (31 + seed) % 250);
  return ids;
}

EngineRequest request(int which) {
  EngineRequest r = request_of(repeating(40 + 9 * which, which), 30);
  r.seed = static_cast<std::uint64_t>(which);
  if (which % 2 == 1) r.sampling.temperature = 0.7f;
  return r;
}

std::vector<std::vector<int>> answers_alone(const std::string& model) {
  std::vector<std::vector<int>> answers;
  for (int i = 0; i < 4; ++i) {
    BatchEngine engine(model_of(model), {});
    answers.push_back(answer(engine, request(i))->ids);
  }
  return answers;
}

class DraftsInEngines : public ::testing::TestWithParam<const char*> {};

TEST_P(DraftsInEngines, AnswersAreTheSameAloneAndTogether) {
  const auto expected = answers_alone(GetParam());
  BatchOptions options;
  options.draft = {.ngram_tokens = 6, .ngram_min = 1};
  BatchEngine engine(model_of(GetParam()), options);
  for (int i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(answer(engine, request(i))->ids, expected[static_cast<std::size_t>(i)]);
  }
  engine.clear_prefixes();  // and what is counted is counted
  const EngineStatus alone = engine.status();
  EXPECT_GT(alone.drafted_tokens, 0u);
  EXPECT_LE(alone.accepted_tokens, alone.drafted_tokens);
  EXPECT_EQ(alone.completion_tokens, 4u * 30);

  std::vector<std::shared_ptr<Listener>> listeners;
  for (int i = 0; i < 4; ++i) {
    listeners.push_back(std::make_shared<Listener>());
    engine.submit(request(i), listeners.back());
  }
  for (std::size_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(listeners[i]->wait());
    EXPECT_EQ(listeners[i]->ids, expected[i]) << i;
    EXPECT_EQ(listeners[i]->result.finish, EngineFinish::kLength);
  }
}

TEST_P(DraftsInEngines, ASmallModelsGuessesAreCheckedToo) {
  const auto expected = answers_alone(GetParam());
  BatchOptions options;
  options.draft = {.model = model_of(GetParam()), .model_tokens = 3};
  // The draft is the model itself here; both are used by the engine's thread alone.
  BatchEngine engine(model_of(GetParam()), options);
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(answer(engine, request(i))->ids, expected[static_cast<std::size_t>(i)]);
}

// The conversation goes on from what was kept of the answer, guesses and all.
TEST_P(DraftsInEngines, WhatIsKeptOfAnAnswerHoldsNoGuess) {
  BatchOptions options;
  options.draft = {.ngram_tokens = 6, .ngram_min = 1};
  BatchEngine engine(model_of(GetParam()), options);
  auto longer = request(0);
  const auto first = answer(engine, request(0));
  longer.prompt.insert(longer.prompt.end(), first->ids.begin(), first->ids.end());
  longer.prompt.push_back(9);
  EngineRequest again = request_of(longer.prompt, 30);
  const auto warm = answer(engine, std::move(longer));
  BatchEngine fresh(model_of(GetParam()), {});
  EXPECT_EQ(warm->ids, answer(fresh, std::move(again))->ids);
}

INSTANTIATE_TEST_SUITE_P(Models, DraftsInEngines,
                         ::testing::Values("demo", "qwen3", "gemma4_text",
                                           "qwen3_5_moe_vlm"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace optiq::generation
