#include "optiq/generate/engine/idle_engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

namespace optiq::generation {
namespace {

using std::chrono::milliseconds;

// Answers at once, with one token.
class InstantEngine final : public Engine {
 public:
  explicit InstantEngine(std::atomic<int>& alive) : alive_(alive) { ++alive_; }
  ~InstantEngine() override { --alive_; }

  std::uint64_t submit(EngineRequest,
                       std::shared_ptr<EngineListener> listener) override {
    listener->token({.id = 7, .text = "seven"});
    listener->finished({});
    return ++n_;
  }
  void cancel(std::uint64_t) override {}
  std::uint64_t embed(
      std::vector<int>,
      std::function<void(std::vector<float>, std::string)> done) override {
    done({1.0f}, "");
    return ++n_;
  }
  EngineStatus status() const override { return {}; }
  int context_length() const override { return 100; }

 private:
  std::atomic<int>& alive_;
  std::atomic<std::uint64_t> n_ = 0;
};

class Promise final : public EngineListener {
 public:
  void token(EngineToken) override {}
  void finished(EngineResult result) override { result_.set_value(std::move(result)); }
  EngineResult get() { return result_.get_future().get(); }

 private:
  std::promise<EngineResult> result_;
};

EngineRequest request() {
  EngineRequest request;
  request.prompt = {1, 2, 3};
  return request;
}

constexpr IdleOptions kOptions{milliseconds(50), 100, 2};

TEST(IdleEngine, IsMadeForTheFirstRequestAndGoesWhenNobodyAsks) {
  std::atomic<int> alive = 0, made = 0;
  IdleEngine engine(
      [&] {
        ++made;
        return std::make_unique<InstantEngine>(alive);
      },
      kOptions);
  EXPECT_FALSE(engine.status().loaded);
  for (int round = 1; round <= 2; ++round) {
    auto listener = std::make_shared<Promise>();
    engine.submit(request(), listener);
    EXPECT_EQ(listener->get().finish, EngineFinish::kEnd);
    EXPECT_EQ(made, round);
    for (int i = 0; i < 200 && alive > 0; ++i)
      std::this_thread::sleep_for(milliseconds(10));
    EXPECT_EQ(alive, 0);
    EXPECT_FALSE(engine.status().loaded);
  }
}

TEST(IdleEngine, AFailureToLoadFailsThoseWhoWaitAndTheNextTriesAgain) {
  std::atomic<int> alive = 0, tries = 0;
  IdleEngine engine(
      [&]() -> std::unique_ptr<Engine> {
        if (++tries == 1) throw std::runtime_error("no such file");
        return std::make_unique<InstantEngine>(alive);
      },
      kOptions);
  auto first = std::make_shared<Promise>();
  engine.submit(request(), first);
  const EngineResult failed = first->get();
  EXPECT_EQ(failed.finish, EngineFinish::kFailed);
  EXPECT_EQ(failed.error, "no such file");
  auto second = std::make_shared<Promise>();
  engine.submit(request(), second);
  EXPECT_EQ(second->get().finish, EngineFinish::kEnd);
}

TEST(IdleEngine, ThoseWhoWaitMayLeaveAndMoreThanMayWaitAreRefused) {
  std::atomic<int> alive = 0;
  std::promise<void> go;
  auto gate = go.get_future().share();
  IdleEngine engine(
      [&] {
        gate.wait();
        return std::make_unique<InstantEngine>(alive);
      },
      kOptions);
  auto leaves = std::make_shared<Promise>(), stays = std::make_shared<Promise>();
  const auto id = engine.submit(request(), leaves);
  engine.submit(request(), stays);
  EXPECT_THROW(engine.submit(request(), std::make_shared<Promise>()), EngineBusy);
  engine.cancel(id);
  EXPECT_EQ(leaves->get().finish, EngineFinish::kCancelled);
  go.set_value();
  EXPECT_EQ(stays->get().finish, EngineFinish::kEnd);
}

TEST(IdleEngine, GoingItselfItEndsThoseWhoWait) {
  std::atomic<int> alive = 0;
  auto listener = std::make_shared<Promise>();
  {
    IdleEngine engine(
        [&] {
          std::this_thread::sleep_for(milliseconds(100));
          return std::make_unique<InstantEngine>(alive);
        },
        kOptions);
    engine.submit(request(), listener);
  }
  listener->get();
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace optiq::generation
