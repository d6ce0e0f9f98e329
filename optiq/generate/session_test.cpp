// Sessions over caches of every kind: what was forked, or fed and forgotten, leaves no
// trace in the logits, to the last bit.
#include "optiq/generate/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <stdexcept>
#include <string>

#include "optiq/base/error.h"
#include "optiq/generate/loaded_model.h"

namespace optiq::generation {
namespace {

// A hybrid with heads of 64 and a dense model with heads of 32.
models::Model& model_of(const std::string& name) {
  static auto* const models = new std::map<std::string, LoadedModel>();
  const auto found = models->find(name);
  if (found != models->end()) return *found->second.model;
  const std::string path =
      name == "demo" ? name : OPTIQ_SOURCE_DIR "/tests/data/golden/" + name;
  return *models->emplace(name, load(path, {.text = false})).first->second.model;
}

struct Kind {
  const char* name;
  SessionOptions options;
};

SessionOptions coded(KvFormat k, KvFormat v, int quantized_start = 0) {
  SessionOptions options;
  options.cache.formats = {k, v};
  options.cache.quantized_start = quantized_start;
  return options;
}

std::vector<Kind> kinds() {
  const KvFormat affine8 = kv_format("affine", 8, 64);
  const KvFormat affine4 = kv_format("affine", 4, 32);
  const KvFormat affine3 = kv_format("affine", 3, 128);
  const KvFormat turbo4 = kv_format("turbo", 4, 0), turbo2 = kv_format("turbo", 2, 0);
  SessionOptions exact_codes = exact_session(coded(turbo4, affine4).cache);
  return {{"float16", {}},
          {"float32", exact_session()},
          {"affine 8", coded(affine8, affine8)},
          {"affine 4", coded(affine4, affine4)},
          {"affine 3", coded(affine3, affine3)},
          {"turbo 4", coded(turbo4, turbo4)},
          {"turbo 2", coded(turbo2, turbo2)},
          {"turbo-qjl 4", coded(kv_format("turbo-qjl", 4, 0), turbo4)},
          {"affine 8 and turbo 4, from 64 on", coded(affine8, turbo4, 64)},
          {"turbo 4 and affine 4, exact", exact_codes}};
}

std::vector<int> some_tokens(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> ids;
  for (int i = 0; i < n; ++i) ids.push_back(static_cast<int>(random() % 256));
  return ids;
}

std::vector<float> fed(Session& session, const std::vector<int>& tokens) {
  const mx::array logits = session.feed(tokens);
  return {logits.data<float>(), logits.data<float>() + logits.size()};
}

// The logits of tokens fed call by call to a session that never knew others.
std::vector<float> fresh(models::Model& model, const SessionOptions& options,
                         const std::vector<std::vector<int>>& calls) {
  Session session(model, options);
  std::vector<float> logits;
  for (const auto& call : calls) logits = fed(session, call);
  return logits;
}

class Sessions : public ::testing::TestWithParam<const char*> {
 protected:
  models::Model& model() const { return model_of(GetParam()); }
  bool is_hybrid() const { return std::string(GetParam()) == "demo"; }

  // Ends within a page that has room.
  const std::vector<int> prompt_ = some_tokens(150, 1);
  const std::vector<int> one_ = some_tokens(1, 2);
  const std::vector<int> few_ = some_tokens(7, 3);
  const std::vector<int> many_ = some_tokens(130, 4);
};

TEST_P(Sessions, AForkGivesTheLogitsOfAFreshSession) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Session first(model(), kind.options);
    fed(first, prompt_);
    Session second = first.fork();
    Session third = second.fork();
    // In turns, so that each could spoil the others' page.
    fed(second, few_);
    const auto of_first = fed(first, many_);
    const auto of_third = fed(third, one_);
    const auto of_second = fed(second, one_);
    EXPECT_EQ(of_first, fresh(model(), kind.options, {prompt_, many_}));
    EXPECT_EQ(of_second, fresh(model(), kind.options, {prompt_, few_, one_}));
    EXPECT_EQ(of_third, fresh(model(), kind.options, {prompt_, one_}));
  }
}

TEST_P(Sessions, WhatWasForgottenLeavesNoTrace) {
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Session session(model(), kind.options);
    fed(session, prompt_);
    session.take_snapshot();
    fed(session, many_);
    fed(session, one_);
    session.truncate(150);
    EXPECT_EQ(session.tokens(), prompt_);
    EXPECT_EQ(fed(session, few_), fresh(model(), kind.options, {prompt_, few_}));
    session.truncate(150);
    EXPECT_EQ(fed(session, one_), fresh(model(), kind.options, {prompt_, one_}));
    session.truncate(0);
    EXPECT_EQ(fed(session, many_), fresh(model(), kind.options, {many_}));
  }
}

// Steps of one token replay the kernels of the one before.
TEST_P(Sessions, StepsBetweenForksAndReturnsGiveTheLogitsOfAFreshSession) {
  const std::vector<std::vector<int>> steps = {prompt_, {1}, {2}, {3}, {4}};
  const auto then = [&](std::vector<std::vector<int>> more) {
    auto calls = steps;
    calls.insert(calls.end(), more.begin(), more.end());
    return calls;
  };
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Session first(model(), kind.options);
    for (const auto& step : steps) fed(first, step);
    first.take_snapshot();
    Session second = first.fork();
    for (const int token : {5, 6, 7}) fed(first, {token});
    for (const int token : {8, 9}) fed(second, {token});
    EXPECT_EQ(fed(first, {10}),
              fresh(model(), kind.options, then({{5}, {6}, {7}, {10}})));
    EXPECT_EQ(fed(second, {11}), fresh(model(), kind.options, then({{8}, {9}, {11}})));
    first.truncate(154);
    fed(first, few_);
    fed(first, {12});
    EXPECT_EQ(fed(first, {13}), fresh(model(), kind.options, then({few_, {12}, {13}})));
    first.truncate(154);
    fed(first, {14});
    EXPECT_EQ(fed(first, {15}), fresh(model(), kind.options, then({{14}, {15}})));
  }
}

TEST_P(Sessions, OnlyHybridsNeedASnapshot) {
  Session session(model(), coded(kv_format("affine", 4, 64), kv_format("turbo", 4, 0)));
  fed(session, prompt_);
  if (is_hybrid()) {
    EXPECT_THROW(session.truncate(100), std::invalid_argument);
    EXPECT_EQ(session.length(), 150);
  } else {
    session.truncate(100);
    EXPECT_EQ(session.length(), 100);
    EXPECT_EQ(session.tokens().size(), 100u);
  }
}

TEST_P(Sessions, AFullBudgetIsOneLineAndKeepsWhatWasTakenIn) {
  SessionOptions options =
      coded(kv_format("affine", 4, 64), kv_format("affine", 4, 64));
  options.chunk = 64;
  const cache::KvCache whole(model().layer_shapes(), options.cache);
  options.cache.budget_bytes = static_cast<std::uint64_t>(
      whole.recurrent_bytes() + 2 * kPageTokens * whole.bytes_per_token());
  Session session(model(), options);
  try {
    session.feed(prompt_);
    FAIL();
  } catch (const ResourceError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
  EXPECT_EQ(session.length(), 128);
}

INSTANTIATE_TEST_SUITE_P(Models, Sessions,
                         ::testing::Values("demo", "llama_tied", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Session, TheContextIsUsedToItsLastTokenInEveryFormat) {
  models::Model& model = model_of("llama_tied");
  const int limit = model.config().max_position_embeddings;
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Session session(model, kind.options);
    fed(session, some_tokens(limit - 1, 1));
    for (const float logit : fed(session, {5})) ASSERT_TRUE(std::isfinite(logit));
    try {
      session.feed(std::vector<int>{5});
      FAIL();
    } catch (const std::invalid_argument& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(std::to_string(limit)), std::string::npos);
      EXPECT_EQ(message.find('\n'), std::string::npos);
    }
    EXPECT_EQ(session.length(), limit);
  }
}

TEST(Session, KeysAndValuesTakeTheBytesThatTheCacheSays) {
  models::Model& model = model_of("qwen3");
  for (const Kind& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    Session session(model, kind.options);
    fed(session, some_tokens(256, 1));
    const cache::KvCache& cache = session.state().cache();
    EXPECT_EQ(cache.store().use().used_bytes,
              static_cast<std::uint64_t>(cache.bytes(256) + cache.recurrent_bytes()));
  }
}

}  // namespace
}  // namespace optiq::generation
