#include "optiq/generate/draft/draft.h"

#include <gtest/gtest.h>

#include <numeric>

#include "optiq/generate/draft/ngram_draft.h"
#include "optiq/generate/generate.h"

namespace optiq::generation {
namespace {

using Tokens = std::vector<int>;

TEST(NgramDraft, CopiesWhatFollowedTheSameTokensBefore) {
  NgramDraft draft(4, 2);
  EXPECT_EQ(draft.propose(Tokens{1, 2, 3, 4, 5, 1, 2}, 4), (Tokens{3, 4, 5, 1}));
  EXPECT_EQ(draft.propose(Tokens{1, 2, 3, 4, 5, 1, 2, 3}, 2), (Tokens{4, 5}));
  EXPECT_EQ(draft.propose(Tokens{1, 2, 3, 4, 5, 1, 2, 3, 9}, 4), Tokens{});
}

TEST(NgramDraft, PrefersThePlaceThatAgreesFarthestThenTheLatest) {
  NgramDraft draft(1, 2);
  // "2 3" stands three times; only the first is preceded by 1 as the end is.
  EXPECT_EQ(draft.propose(Tokens{1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3}, 1), Tokens{7});
  NgramDraft again(1, 2);
  EXPECT_EQ(again.propose(Tokens{4, 2, 3, 7, 5, 2, 3, 8, 6, 2, 3}, 1), Tokens{8});
}

TEST(NgramDraft, ShortTextsAndOtherTextsGiveNothing) {
  NgramDraft draft(4, 3);
  EXPECT_EQ(draft.propose(Tokens{}, 4), Tokens{});
  EXPECT_EQ(draft.propose(Tokens{1, 2}, 4), Tokens{});
  EXPECT_EQ(draft.propose(Tokens{1, 2, 3, 1, 2, 3}, 4), (Tokens{1, 2, 3}));
  EXPECT_EQ(draft.propose(Tokens{9, 8, 7}, 4), Tokens{});  // what was read is forgotten
  EXPECT_EQ(draft.propose(Tokens{9, 8, 7, 9, 8, 7}, 0), Tokens{});
}

TEST(DraftLength, GrowsWithSuccessAndPausesAfterFailures) {
  DraftLength length(6);
  EXPECT_EQ(length.next(), 6);
  length.told(6, 2);
  EXPECT_EQ(length.next(), 4);
  length.told(4, 4);
  EXPECT_EQ(length.next(), 6);
  length.told(6, 0);
  length.told(3, 0);
  int pause = 0;
  while (length.next() == 0) ++pause;
  EXPECT_EQ(pause, 4);
  length.told(1, 0);  // still nothing: longer
  pause = 0;
  while (length.next() == 0) ++pause;
  EXPECT_EQ(pause, 8);
  length.told(1, 1);
  EXPECT_EQ(length.next(), 3);
}

// One of each kind: attention alone, and recurrent layers that go back to snapshots.
LoadedModel& model_of(const std::string& name) {
  static auto* const models = new std::map<std::string, LoadedModel>();
  const auto found = models->find(name);
  if (found != models->end()) return found->second;
  const std::string path =
      name == "demo" ? name : OPTIQ_SOURCE_DIR "/tests/data/golden/" + name;
  return models->emplace(name, load(path, {.text = name == "demo"})).first->second;
}

// A text that repeats itself, so that there is something to copy.
Request repeating(LoadedModel& model, int n) {
  Request request;
  const int vocab = std::min(model.model->config().vocab_size, 500);
  for (int i = 0; i < n; ++i) request.prompt.push_back(3 + (i % 7) * 31 % (vocab - 3));
  request.max_tokens = 40;
  request.ignore_eos = true;
  return request;
}

TEST(Speculation, GivesTheSameTokensInFewerSteps) {
  for (const char* name :
       {"demo", "qwen3", "qwen3_5_text", "gemma3_text", "gemma4_text", "qwen3_moe"}) {
    LoadedModel& model = model_of(name);
    for (const bool exact : {false, true})
      for (const float temperature : {0.0f, 0.8f}) {
        SCOPED_TRACE(::testing::Message()
                     << name << " exact " << exact << " temperature " << temperature);
        Request request = repeating(model, 60);
        request.exact = exact;
        request.sampling.temperature = temperature;
        request.sampling.repetition_penalty = temperature > 0 ? 1.05f : 1.0f;
        request.seed = 7;
        const GenerateResult plain = generate(model, request);
        EXPECT_EQ(plain.drafted_tokens, 0);
        request.draft = {.ngram_tokens = 6, .ngram_min = 1};
        const GenerateResult drafted = generate(model, request);
        EXPECT_EQ(drafted.tokens, plain.tokens);
        EXPECT_LE(drafted.accepted_tokens, drafted.drafted_tokens);
        if (temperature == 0) {  // else random models repeat nothing
          EXPECT_GT(drafted.drafted_tokens, 0);
        }
      }
  }
}

TEST(Speculation, AModelAsItsOwnDraftIsAcceptedWhereverItIsSure) {
  for (const char* name : {"demo", "qwen3"}) {
    SCOPED_TRACE(name);
    auto draft = std::make_shared<LoadedModel>(
        load(name == std::string("demo") ? name
                                         : OPTIQ_SOURCE_DIR "/tests/data/golden/qwen3",
             {.text = false}));
    LoadedModel& model = model_of(name);
    Request request = repeating(model, 30);
    const GenerateResult plain = generate(model, request);
    request.draft = {.model = draft, .model_tokens = 5};
    const GenerateResult drafted = generate(model, request);
    EXPECT_EQ(drafted.tokens, plain.tokens);
    EXPECT_EQ(drafted.accepted_tokens, drafted.drafted_tokens);
  }
}

TEST(Speculation, ASessionHoldsNoGuessesAfterwards) {
  for (const char* name : {"demo", "qwen3"}) {
    SCOPED_TRACE(name);
    LoadedModel& model = model_of(name);
    Request request = repeating(model, 60);
    request.max_tokens = 17;
    request.draft = {.ngram_tokens = 6, .ngram_min = 2};
    Session session = new_session(model, request);
    const GenerateResult first = generate(model, session, request);
    std::vector<int> all = request.prompt;
    all.insert(all.end(), first.tokens.begin(), first.tokens.end());
    ASSERT_LT(session.tokens().size(), all.size());
    EXPECT_TRUE(
        std::equal(session.tokens().begin(), session.tokens().end(), all.begin()));
    request.prompt = all;
    const GenerateResult second = generate(model, session, request);
    EXPECT_EQ(second.tokens, generate(model, request).tokens);
  }
}

TEST(Speculation, OfOtherTokensIsRefused) {
  const LoadedModel demo = load("demo");
  check_draft_model(demo, load("demo"));
  EXPECT_THROW(check_draft_model(demo, load(OPTIQ_SOURCE_DIR "/tests/data/golden/qwen3",
                                            {.text = false})),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::generation
