// Tokens a second of a full batch: base alone, and eight adapters and the base mixed.
//
//   adapters_bench MODEL [RANK] [ROWS] [ROUNDS]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <random>

#include "optiq/adapters/testing.h"
#include "optiq/generate/engine/batch_engine.h"

namespace optiq::generation {
namespace {

constexpr int kPrompt = 32, kAnswer = 64, kAdapters = 8;

class Counter : public EngineListener {
 public:
  explicit Counter(int n) : left_(n) {}
  void token(EngineToken) override {}
  void finished(EngineResult) override {
    const std::lock_guard lock(mutex_);
    if (--left_ == 0) changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int left_;
};

double tokens_per_s(BatchEngine& engine, int rows, unsigned seed,
                    const std::vector<models::AdapterPtr>& adapters) {
  std::mt19937 random(seed);
  const auto counter = std::make_shared<Counter>(rows);
  const auto started = std::chrono::steady_clock::now();
  for (int i = 0; i < rows; ++i) {
    EngineRequest request;
    for (int t = 0; t < kPrompt; ++t)
      request.prompt.push_back(static_cast<int>(random() % 256));
    request.max_tokens = kAnswer;
    request.ignore_eos = true;
    if (!adapters.empty())
      request.adapter = adapters[static_cast<std::size_t>(i) % adapters.size()];
    engine.submit(std::move(request), counter);
  }
  counter->wait();
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - started;
  return rows * kAnswer / seconds.count();
}

int run(int argc, char** argv) {
  const auto number = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const int rank = number(2, 8), rows = number(3, 32), rounds = number(4, 5);
  auto model = std::make_shared<LoadedModel>(load(argv[1], {.text = false}));
  std::vector<models::AdapterPtr> adapters{nullptr};
  for (unsigned i = 0; i < kAdapters; ++i)
    adapters.push_back(adapters::random_adapter(*model->model, i, rank, true));
  BatchOptions options;
  options.max_concurrent = rows;
  BatchEngine engine(model, options);
  std::vector<double> base, mixed;
  unsigned seed = 0;
  tokens_per_s(engine, rows, seed++, {});
  for (int i = 0; i < rounds; ++i) {
    base.push_back(tokens_per_s(engine, rows, seed++, {}));
    mixed.push_back(tokens_per_s(engine, rows, seed++, adapters));
  }
  const auto median = [](std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
  };
  fmt::print("name,rows,rank,base tokens/s,8 adapters and base tokens/s,ratio\n");
  fmt::print("{},{},{},{:.1f},{:.1f},{:.3f}\n", argv[1], rows, rank, median(base),
             median(mixed), median(mixed) / median(base));
  return 0;
}

}  // namespace
}  // namespace optiq::generation

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: adapters_bench MODEL [RANK] [ROWS] [ROUNDS]\n");
    return 2;
  }
  return optiq::generation::run(argc, argv);
}
