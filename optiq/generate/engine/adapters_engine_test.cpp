// Requests with different adapters, and with none, in one batch.
#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <random>

#include "optiq/adapters/testing.h"
#include "optiq/generate/engine/batch_engine.h"
#include "optiq/generate/generate.h"

namespace optiq::generation {
namespace {

class Answer : public EngineListener {
 public:
  void token(EngineToken token) override {
    const std::lock_guard lock(mutex_);
    ids.push_back(token.id);
  }
  void started(int cached_tokens) override { cached = cached_tokens; }
  void finished(EngineResult r) override {
    const std::lock_guard lock(mutex_);
    result = std::move(r);
    done_ = true;
    changed_.notify_all();
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(5), [&] { return done_; });
  }

  std::vector<int> ids;
  int cached = -1;
  EngineResult result;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

std::vector<int> some_tokens(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> ids;
  for (int i = 0; i < n; ++i) ids.push_back(static_cast<int>(random() % 256));
  return ids;
}

EngineRequest request_of(int prompt, unsigned seed, models::AdapterPtr adapter) {
  EngineRequest request;
  request.prompt = some_tokens(prompt, seed);
  request.max_tokens = 24;
  request.ignore_eos = true;
  request.adapter = std::move(adapter);
  return request;
}

class AdaptersInABatch : public ::testing::TestWithParam<const char*> {
 protected:
  AdaptersInABatch() {
    const std::string name = GetParam();
    model_ = std::make_shared<LoadedModel>(
        load(name == "demo" ? name : OPTIQ_SOURCE_DIR "/tests/data/golden/" + name,
             {.text = false}));
    adapters_.push_back(nullptr);
    for (unsigned i = 1; i < 5; ++i)
      adapters_.push_back(
          adapters::random_adapter(*model_->model, i, 2 + int(i), i % 2 == 0, i == 3));
  }

  std::unique_ptr<BatchEngine> engine(int max_concurrent = 16) {
    BatchOptions options;
    options.max_concurrent = max_concurrent;
    return std::make_unique<BatchEngine>(model_, options);
  }

  std::shared_ptr<LoadedModel> model_;
  std::vector<models::AdapterPtr> adapters_;
};

TEST_P(AdaptersInABatch, EachRowIsTheOneThatItsAdapterGivesAlone) {
  std::map<std::size_t, std::vector<int>> alone;
  for (std::size_t i = 0; i < 15; ++i) {
    const auto one = engine(1);
    const auto heard = std::make_shared<Answer>();
    one->submit(request_of(40 + int(i), unsigned(i / 5), adapters_[i % 5]), heard);
    ASSERT_TRUE(heard->wait());
    alone[i] = heard->ids;
    EXPECT_EQ(heard->ids.size(), 24u);
  }
  EXPECT_NE(alone[0], alone[1]);  // the adapters do something
  const auto all = engine();
  for (int round = 0; round < 2; ++round) {  // then from the prefix cache
    std::vector<std::shared_ptr<Answer>> answers;
    for (std::size_t i = 0; i < 15; ++i) {
      answers.push_back(std::make_shared<Answer>());
      all->submit(request_of(40 + int(i), unsigned(i / 5), adapters_[i % 5]),
                  answers.back());
    }
    for (std::size_t i = 0; i < 15; ++i) {
      ASSERT_TRUE(answers[i]->wait());
      EXPECT_EQ(answers[i]->ids, alone[i]) << "row " << i << ", round " << round;
    }
  }
}

TEST_P(AdaptersInABatch, WhatOneAdapterReadIsNotFoundByAnother) {
  const auto one = engine();
  const auto ask = [&](models::AdapterPtr adapter) {
    const auto heard = std::make_shared<Answer>();
    one->submit(request_of(300, 9, std::move(adapter)), heard);
    EXPECT_TRUE(heard->wait());
    return heard->cached;
  };
  EXPECT_EQ(ask(adapters_[1]), 0);
  EXPECT_GT(ask(adapters_[1]), 200);
  EXPECT_EQ(ask(adapters_[2]), 0);
  EXPECT_EQ(ask(nullptr), 0);
  EXPECT_GT(ask(nullptr), 200);
  // Another load of the same files is another adapter.
  auto again = std::make_shared<models::Adapter>(*adapters_[1]);
  again->identity += " again";
  EXPECT_EQ(ask(again), 0);
}

TEST_P(AdaptersInABatch, AnAdapterThatNobodyHoldsLivesToTheEndOfItsRequests) {
  const auto one = engine();
  std::weak_ptr<const models::Adapter> watched;
  const auto heard = std::make_shared<Answer>();
  {
    auto adapter = adapters::random_adapter(*model_->model, 77);
    watched = adapter;
    one->submit(request_of(50, 3, std::move(adapter)), heard);
  }
  ASSERT_TRUE(heard->wait());
  EXPECT_EQ(heard->ids.size(), 24u);
  // The engine lets go of it once the request is dropped, a moment later.
  for (int i = 0; i < 500 && !watched.expired(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(watched.expired());
}

INSTANTIATE_TEST_SUITE_P(Models, AdaptersInABatch, ::testing::Values("demo", "qwen2"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace optiq::generation
