#include "optiq/generate/engine/batch_engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "mlx/ops.h"
#include "optiq/base/error.h"
#include "optiq/generate/engine/testing.h"
#include "optiq/generate/generate.h"

namespace optiq::generation {
namespace {

// After the last answer the books are exact: what is used is what prefixes hold.
void expect_nothing_leaked(BatchEngine& engine) {
  engine.clear_prefixes();
  const EngineStatus status = engine.status();
  EXPECT_EQ(status.running, 0);
  EXPECT_EQ(status.waiting, 0);
  EXPECT_EQ(status.pages.used_bytes, 0u);
  EXPECT_EQ(status.pages.shared_bytes, 0u);
  EXPECT_EQ(status.prefix_bytes, 0u);
}

struct Kind {
  const char* model;
  int kv_bits;  // 0: float16
};

class BatchEngines : public ::testing::TestWithParam<Kind> {
 protected:
  BatchOptions options() const {
    BatchOptions options;
    options.prefill_rows = 128;
    if (GetParam().kv_bits > 0) {
      const KvFormat format = kv_format("affine", GetParam().kv_bits, 32);
      options.cache.formats = {format, format};
    }
    return options;
  }
};

TEST_P(BatchEngines, ARequestGivesTheSameTokensAloneInABatchAndFromAWarmCache) {
  const auto model = model_of(GetParam().model);
  std::vector<std::vector<int>> prompts;
  const auto shared = some_tokens(150, 99);
  for (const int n : {1, 5, 64, 65, 130, 200, 300, 150}) {
    prompts.push_back(some_tokens(n, static_cast<unsigned>(n)));
    if (n == 300 || n == 200)
      std::copy(shared.begin(), shared.end(), prompts.back().begin());
  }
  constexpr int kAnswer = 20;
  std::vector<std::vector<int>> alone;
  for (const auto& prompt : prompts) {
    BatchEngine engine(model, options());
    alone.push_back(answer(engine, request_of(prompt, kAnswer))->ids);
    ASSERT_EQ(alone.back().size(), static_cast<std::size_t>(kAnswer));
  }
  BatchEngine engine(model, options());
  for (int round = 0; round < 2; ++round) {  // cold, then warm
    std::vector<std::shared_ptr<Listener>> listeners;
    for (const auto& prompt : prompts) {
      listeners.push_back(std::make_shared<Listener>());
      engine.submit(request_of(prompt, kAnswer), listeners.back());
    }
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_TRUE(listeners[i]->wait());
      EXPECT_EQ(listeners[i]->ids, alone[i]) << "prompt " << i << ", round " << round;
      if (round == 1 && prompts[i].size() > 64) {
        EXPECT_GE(listeners[i]->cached, 64) << i;
      }
    }
  }
  expect_nothing_leaked(engine);
}

TEST_P(BatchEngines, AnAnswerIsThatOfGenerate) {
  const auto model = model_of(GetParam().model);
  Request request;
  request.prompt = some_tokens(40, 3);
  request.max_tokens = 24;
  request.ignore_eos = true;
  request.cache = options().cache;
  BatchEngine engine(model, options());
  EXPECT_EQ(answer(engine, request_of(request.prompt, 24))->ids,
            generate(*model, request).tokens);
}

TEST_P(BatchEngines, TheNextTurnReadsOnlyWhatIsNew) {
  BatchEngine engine(model_of(GetParam().model), options());
  auto prompt = some_tokens(400, 7);
  const auto first = answer(engine, request_of(prompt, 30));
  prompt.insert(prompt.end(), first->ids.begin(), first->ids.end());
  const auto more = some_tokens(20, 8);
  prompt.insert(prompt.end(), more.begin(), more.end());
  const auto second = answer(engine, request_of(prompt, 5));
  EXPECT_EQ(second->cached,
            429);  // all but the answer's last token, which was not read
  EXPECT_EQ(second->result.use.cached_tokens, 429);
}

TEST_P(BatchEngines, OneSaltDoesNotFindWhatAnotherLeft) {
  BatchEngine engine(model_of(GetParam().model), options());
  auto request = request_of(some_tokens(200, 7), 2);
  request.salt = "a";
  answer(engine, std::move(request));
  request = request_of(some_tokens(200, 7), 2);
  request.salt = "b";
  EXPECT_EQ(answer(engine, std::move(request))->cached, 0);
}

TEST_P(BatchEngines, AlikePromptsThatComeTogetherAreReadOnce) {
  BatchEngine engine(model_of(GetParam().model), options());
  std::vector<std::shared_ptr<Listener>> listeners;
  for (int i = 0; i < 4; ++i) {
    listeners.push_back(std::make_shared<Listener>());
    engine.submit(request_of(some_tokens(600, 7), 4), listeners.back());
  }
  for (const auto& listener : listeners) {
    ASSERT_TRUE(listener->wait());
    EXPECT_EQ(listener->ids, listeners[0]->ids);
  }
  EXPECT_LE(engine.status().prompt_tokens, 600u + 3 * 64);
}

TEST_P(BatchEngines, AnUnderfedCacheMakesRequestsWaitAndNeverWrong) {
  const auto model = model_of(GetParam().model);
  BatchOptions small = options();
  const cache::KvCache shape(model->model->layer_shapes(), small.cache);
  // Room for two of them and a little more.
  small.cache.budget_bytes = static_cast<std::uint64_t>(
      2 * shape.bytes(320) + 3 * shape.recurrent_bytes() + shape.bytes(64));
  std::vector<std::vector<int>> alone;
  for (unsigned i = 0; i < 6; ++i) {
    BatchEngine engine(model, options());
    alone.push_back(answer(engine, request_of(some_tokens(200, i), 100))->ids);
  }
  BatchEngine engine(model, small);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (unsigned i = 0; i < 6; ++i) {
    listeners.push_back(std::make_shared<Listener>());
    engine.submit(request_of(some_tokens(200, i), 100), listeners.back());
  }
  int same = 0;
  for (std::size_t i = 0; i < listeners.size(); ++i) {
    ASSERT_TRUE(listeners[i]->wait());
    EXPECT_EQ(listeners[i]->result.finish, EngineFinish::kLength);
    EXPECT_EQ(listeners[i]->ids.size(), 100u);
    same += listeners[i]->ids == alone[i];
  }
  // A hybrid that was set aside reads again what it had decoded: equal up to rounding.
  EXPECT_GE(
      same,
      cache::KvCache(model->model->layer_shapes(), {}).has_recurrent_layers() ? 3 : 6);
  expect_nothing_leaked(engine);
}

TEST_P(BatchEngines, WhatCanNeverFitFailsAloneAndSaysWhy) {
  const auto model = model_of(GetParam().model);
  BatchOptions small = options();
  const cache::KvCache shape(model->model->layer_shapes(), small.cache);
  small.cache.budget_bytes =
      static_cast<std::uint64_t>(shape.bytes(192) + shape.recurrent_bytes());
  BatchEngine engine(model, small);
  const auto failed = answer(engine, request_of(some_tokens(400, 1), 10));
  EXPECT_EQ(failed->result.finish, EngineFinish::kFailed);
  EXPECT_TRUE(failed->result.out_of_memory);
  EXPECT_NE(failed->result.error.find("--kv-memory"), std::string::npos);
  EXPECT_EQ(answer(engine, request_of(some_tokens(50, 1), 10))->ids.size(), 10u);
  expect_nothing_leaked(engine);
}

TEST_P(BatchEngines, AnEmbeddingHasLengthOneAndIsTheSameInABatch) {
  BatchEngine engine(model_of(GetParam().model), options());
  const auto embed = [&](std::vector<int> tokens) {
    auto vector = std::make_shared<std::promise<std::vector<float>>>();
    engine.embed(std::move(tokens), [vector](std::vector<float> v, std::string error) {
      EXPECT_EQ(error, "");
      vector->set_value(std::move(v));
    });
    return vector;
  };
  const auto tokens = some_tokens(300, 5);
  const auto alone = embed(tokens)->get_future().get();
  double squares = 0;
  for (const float x : alone)
    squares += static_cast<double>(x) * static_cast<double>(x);
  EXPECT_NEAR(squares, 1, 1e-5);
  auto other = std::make_shared<Listener>();
  engine.submit(request_of(some_tokens(300, 6), 50), other);
  EXPECT_EQ(embed(tokens)->get_future().get(), alone);
  other->wait();
}

INSTANTIATE_TEST_SUITE_P(All, BatchEngines,
                         ::testing::Values(Kind{"demo", 0}, Kind{"demo", 4},
                                           Kind{"qwen3", 0}, Kind{"qwen3", 4},
                                           Kind{"qwen2", 0}, Kind{"llama_tied", 0}),
                         [](const auto& info) {
                           return std::string(info.param.model) +
                                  (info.param.kv_bits ? "_affine4" : "_float16");
                         });

TEST(BatchEngine, AStopStringIsNamedAndNotPartOfTheText) {
  const auto model = model_of("demo");
  BatchEngine engine(model, {});
  const auto prompt = encode_raw(*model, "Once upon a time there was");
  const auto whole = answer(engine, request_of(prompt, 30));
  const std::string text = whole->text + whole->result.rest;
  const std::string stop = text.substr(text.size() / 2, 4);
  auto request = request_of(prompt, 30);
  request.stop_strings = {"@@@", stop};
  const auto cut = answer(engine, std::move(request));
  EXPECT_EQ(cut->result.finish, EngineFinish::kStopString);
  EXPECT_EQ(cut->result.stop_string, stop);
  EXPECT_EQ(cut->text + cut->result.rest, text.substr(0, text.find(stop)));
}

TEST(BatchEngine, TheContextEndsAnAnswerAndRefusesALongerPrompt) {
  BatchOptions options;
  options.context_length = 100;
  BatchEngine engine(model_of("demo"), options);
  const auto cut = answer(engine, request_of(some_tokens(90, 1), 1000));
  EXPECT_EQ(cut->result.finish, EngineFinish::kContextFull);
  EXPECT_EQ(cut->ids.size(), 10u);
  try {
    engine.submit(request_of(some_tokens(100, 1), 1), std::make_shared<Listener>());
    ADD_FAILURE() << "not refused";
  } catch (const PromptTooLong& error) {
    EXPECT_EQ(error.prompt_tokens, 100);
    EXPECT_EQ(error.context_length, 100);
  }
}

TEST(BatchEngine, AContextMayBeLongerThanTheModelsOwn) {
  BatchOptions options;
  options.context_length = 20'000;  // demo was trained to 16384
  options.prefill_rows = 512;
  BatchEngine engine(model_of("demo"), options);
  EXPECT_EQ(answer(engine, request_of(some_tokens(16'500, 1), 3))->ids.size(), 3u);
}

TEST(BatchEngine, MoreThanTheQueueHoldsIsRefusedAtOnce) {
  BatchOptions options;
  options.max_concurrent = 2;
  options.max_queue = 3;
  BatchEngine engine(model_of("demo"), options);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (int i = 0; i < 5; ++i) {
    listeners.push_back(std::make_shared<Listener>());
    engine.submit(request_of(some_tokens(100, 1), 60), listeners.back());
  }
  EXPECT_THROW(
      engine.submit(request_of(some_tokens(10, 1), 1), std::make_shared<Listener>()),
      EngineBusy);
  for (const auto& listener : listeners) EXPECT_TRUE(listener->wait());
}

TEST(BatchEngine, ACancelledRequestEndsOnceWhereverItIs) {
  BatchOptions options;
  options.max_concurrent = 2;
  BatchEngine engine(model_of("demo"), options);
  auto decoding = std::make_shared<Listener>(), reading = std::make_shared<Listener>(),
       waiting = std::make_shared<Listener>();
  const auto a = engine.submit(request_of(some_tokens(10, 1), 100'000), decoding);
  decoding->wait(3);
  const auto b = engine.submit(request_of(some_tokens(16'000, 2), 10), reading);
  const auto c = engine.submit(request_of(some_tokens(10, 3), 10), waiting);
  for (const auto id : {c, b, a}) engine.cancel(id);
  for (const auto& listener : {decoding, reading, waiting}) {
    ASSERT_TRUE(listener->wait());
    EXPECT_EQ(listener->result.finish, EngineFinish::kCancelled);
    EXPECT_EQ(listener->endings, 1);
  }
  EXPECT_EQ(reading->ids.size(), 0u);
  expect_nothing_leaked(engine);
}

TEST(BatchEngine, AListenerMayCancelItsOwnRequest) {
  BatchEngine engine(model_of("demo"), {});
  auto listener = std::make_shared<Listener>();
  std::atomic<std::uint64_t> id = 0;
  listener->on_token = [&](int n) {
    if (n == 5) engine.cancel(id);
  };
  id = engine.submit(request_of(some_tokens(10, 1), 100'000), listener);
  ASSERT_TRUE(listener->wait());
  EXPECT_EQ(listener->result.finish, EngineFinish::kCancelled);
  EXPECT_LE(listener->ids.size(), 7u);
}

TEST(BatchEngine, OptionsOutOfRangeAreRefusedBeforeTheQueue) {
  BatchEngine engine(model_of("demo"), {});
  const auto refused = [&](const std::function<void(EngineRequest&)>& spoil) {
    auto request = request_of({1, 2, 3}, 5);
    spoil(request);
    EXPECT_THROW(engine.submit(std::move(request), std::make_shared<Listener>()),
                 std::invalid_argument);
  };
  refused([](EngineRequest& r) { r.prompt = {}; });
  refused([](EngineRequest& r) { r.prompt = {-1}; });
  refused([](EngineRequest& r) { r.prompt = {8192}; });
  refused([](EngineRequest& r) { r.sampling.top_p = 2; });
  refused([](EngineRequest& r) { r.sampling.logit_bias = {{9000, 1.0f}}; });
  EXPECT_EQ(engine.status().waiting + engine.status().running, 0);
}

// Only even ids, and an end after six of them.
class EvenIds : public TokenPolicy {
 public:
  bool restrict_next(std::span<std::uint32_t> mask) override {
    std::ranges::fill(mask, 0x55555555u);
    return true;
  }
  void accept(int id) override {
    EXPECT_EQ(id % 2, 0);
    ++n_;
  }
  bool complete() const override { return n_ == 6; }

 private:
  int n_ = 0;
};

TEST(BatchEngine, APolicyDecidesWhichTokensComeAndWhenItEnds) {
  BatchEngine engine(model_of("demo"), {});
  auto request = request_of(some_tokens(20, 4), 50);
  request.policy = std::make_unique<EvenIds>();
  const auto listener = answer(engine, std::move(request));
  EXPECT_EQ(listener->result.finish, EngineFinish::kEnd);
  EXPECT_EQ(listener->ids.size(), 6u);
}

TEST(BatchEngine, ASeedDecidesASampledAnswerWhateverRunsBeside) {
  BatchEngine engine(model_of("demo"), {});
  const auto sampled = [&](std::uint64_t seed) {
    auto request = request_of(some_tokens(20, 4), 20);
    request.sampling.temperature = 1;
    request.seed = seed;
    auto listener = std::make_shared<Listener>();
    engine.submit(std::move(request), listener);
    return listener;
  };
  const auto alone = sampled(5);
  ASSERT_TRUE(alone->wait());
  const auto again = sampled(5), other = sampled(6);
  ASSERT_TRUE(again->wait());
  ASSERT_TRUE(other->wait());
  EXPECT_EQ(again->ids, alone->ids);
  EXPECT_NE(other->ids, alone->ids);
}

TEST(BatchEngine, LogProbabilitiesAreThoseOfTheModelNotOfTheSampler) {
  BatchEngine engine(model_of("demo"), {});
  auto request = request_of(some_tokens(20, 4), 3);
  request.log_probs = 2;
  request.sampling.temperature = 0.1f;
  request.sampling.top_k = 1;
  const auto listener = answer(engine, std::move(request));
  for (const EngineToken& token : listener->tokens) {
    ASSERT_EQ(token.likeliest.size(), 2u);
    EXPECT_EQ(token.likeliest[0].id, token.id);
    EXPECT_LT(token.log_prob, 0);
    EXPECT_GE(token.likeliest[0].log_prob, token.likeliest[1].log_prob);
  }
}

TEST(BatchEngine, RandomRequestsAndCancellationsLeaveNothingBehind) {
  BatchOptions options;
  options.max_concurrent = 6;
  options.max_queue = 1000;
  BatchEngine engine(model_of("demo"), options);
  std::vector<std::thread> clients;
  std::atomic<int> endings = 0, submitted = 0;
  for (unsigned t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 25; ++i) {
        auto listener = std::make_shared<Listener>();
        const auto id = engine.submit(
            request_of(some_tokens(1 + static_cast<int>(random() % 300), random() % 5),
                       1 + static_cast<int>(random() % 20)),
            listener);
        ++submitted;
        if (random() % 3 == 0) engine.cancel(id);
        if (random() % 4 == 0) listener->wait(2), engine.cancel(id);
        ASSERT_TRUE(listener->wait());
        endings += listener->endings;
      }
    });
  for (auto& client : clients) client.join();
  EXPECT_EQ(endings, submitted);
  expect_nothing_leaked(engine);
}

// The demo model, but for one token whose rows are NaN, and one at which it sleeps.
class SpoiltModel final : public models::Model {
 public:
  static constexpr int kPoison = 8000, kSleep = 8001;

  explicit SpoiltModel(std::unique_ptr<models::Model> model)
      : model_(std::move(model)) {}

  const checkpoint::ModelConfig& config() const override { return model_->config(); }
  mlx::core::array embed(const mlx::core::array& ids) override {
    namespace mx = mlx::core;
    if (mx::any(mx::equal(ids, mx::array(kSleep))).item<bool>())
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    const mx::array poisoned = mx::expand_dims(mx::equal(ids, mx::array(kPoison)), 1);
    return mx::where(poisoned, mx::array(std::nanf("")), model_->embed(ids));
  }
  mlx::core::array layer(int i, const mlx::core::array& x,
                         const models::Batch& batch) override {
    return model_->layer(i, x, batch);
  }
  mlx::core::array final_norm(const mlx::core::array& x) override {
    return model_->final_norm(x);
  }
  mlx::core::array head(const mlx::core::array& x, kernels::Activation a) override {
    return model_->head(x, a);
  }
  std::function<mlx::core::array(const mlx::core::array&)> reference_head()
      const override {
    return model_->reference_head();
  }
  const models::LinearModule& output() const override { return model_->output(); }
  std::vector<models::LinearModule*> linears() override { return model_->linears(); }
  const std::vector<cache::LayerShape>& layer_shapes() const override {
    return model_->layer_shapes();
  }
  std::int64_t weight_bytes() const override { return model_->weight_bytes(); }

 private:
  const std::unique_ptr<models::Model> model_;
};

std::shared_ptr<LoadedModel> spoilt_model() {
  auto model = std::make_shared<LoadedModel>(load("demo", {.text = false}));
  model->model = std::make_unique<SpoiltModel>(std::move(model->model));
  return model;
}

TEST(BatchEngine, LogitsThatAreNoNumbersFailOnlyTheirOwnRequest) {
  const auto model = spoilt_model();
  BatchEngine engine(model, {});
  const auto alone = answer(engine, request_of(some_tokens(30, 1), 40));
  auto healthy = std::make_shared<Listener>(), poisoned = std::make_shared<Listener>();
  engine.submit(request_of(some_tokens(30, 1), 40), healthy);
  auto prompt = some_tokens(30, 2);
  prompt.push_back(SpoiltModel::kPoison);
  engine.submit(request_of(prompt, 40), poisoned);
  ASSERT_TRUE(healthy->wait());
  ASSERT_TRUE(poisoned->wait());
  EXPECT_EQ(poisoned->result.finish, EngineFinish::kFailed);
  EXPECT_FALSE(poisoned->result.error.empty());
  EXPECT_EQ(healthy->ids, alone->ids);
  expect_nothing_leaked(engine);
}

TEST(BatchEngine, AStuckRequestIsEndedAndTheEngineGoesOn) {
  BatchOptions options;
  options.stuck_after = std::chrono::milliseconds(200);
  BatchEngine engine(spoilt_model(), options);
  auto stuck = std::make_shared<Listener>();
  const auto start = std::chrono::steady_clock::now();
  auto prompt = some_tokens(10, 1);
  prompt.push_back(SpoiltModel::kSleep);
  engine.submit(request_of(prompt, 10), stuck);
  ASSERT_TRUE(stuck->wait());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1200));
  EXPECT_EQ(stuck->result.finish, EngineFinish::kFailed);
  EXPECT_NE(stuck->result.error.find("no progress"), std::string::npos);
  EXPECT_GT(engine.status().since_progress_s, 0.1);
  while (engine.status().running > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(stuck->endings, 1);
  EXPECT_EQ(answer(engine, request_of(some_tokens(10, 3), 5))->ids.size(), 5u);
}

TEST(BatchEngine, AnEngineThatGoesEndsItsRequests) {
  auto running = std::make_shared<Listener>(), waiting = std::make_shared<Listener>();
  {
    BatchOptions options;
    options.max_concurrent = 1;
    BatchEngine engine(model_of("demo"), options);
    engine.submit(request_of(some_tokens(10, 1), 100'000), running);
    running->wait(1);
    engine.submit(request_of(some_tokens(10, 1), 10), waiting);
  }
  EXPECT_EQ(running->result.finish, EngineFinish::kCancelled);
  EXPECT_EQ(waiting->result.finish, EngineFinish::kCancelled);
}

}  // namespace
}  // namespace optiq::generation
