// What the tests of engines share: models, requests, and one who listens.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "optiq/generate/engine/batch_engine.h"

namespace optiq::generation {

inline std::shared_ptr<LoadedModel> model_of(const std::string& name) {
  static auto* const models = new std::map<std::string, std::shared_ptr<LoadedModel>>();
  auto& model = (*models)[name];
  if (!model) {
    const bool demo = name == "demo";
    const std::string path =
        demo ? name : OPTIQ_SOURCE_DIR "/tests/data/golden/" + name;
    model = std::make_shared<LoadedModel>(load(path, {.text = demo}));
  }
  return model;
}

// Collects what it hears.
class Listener : public EngineListener {
 public:
  void started(int cached_tokens) override { cached = cached_tokens; }

  void token(EngineToken token) override {
    const std::lock_guard lock(mutex_);
    ids.push_back(token.id);
    text += token.text;
    tokens.push_back(std::move(token));
    if (on_token) on_token(static_cast<int>(ids.size()));
    changed_.notify_all();
  }

  void finished(EngineResult r) override {
    const std::lock_guard lock(mutex_);
    ++endings;
    result = std::move(r);
    changed_.notify_all();
  }

  bool wait(int n_tokens = std::numeric_limits<int>::max()) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(5), [&] {
      return endings > 0 || static_cast<int>(ids.size()) >= n_tokens;
    });
  }

  std::vector<int> ids;
  std::vector<EngineToken> tokens;
  std::string text;
  int cached = -1;
  int endings = 0;
  EngineResult result;
  std::function<void(int n)> on_token;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

inline std::vector<int> some_tokens(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> ids;
  for (int i = 0; i < n; ++i) ids.push_back(static_cast<int>(random() % 256));
  return ids;
}

inline EngineRequest request_of(std::vector<int> prompt, int max_tokens) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

inline std::shared_ptr<Listener> answer(BatchEngine& engine, EngineRequest request) {
  auto listener = std::make_shared<Listener>();
  engine.submit(std::move(request), listener);
  EXPECT_TRUE(listener->wait());
  return listener;
}

}  // namespace optiq::generation
