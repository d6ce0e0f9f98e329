#include "optiq/generate/engine/idle_engine.h"

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "optiq/base/log.h"

namespace optiq::generation {
namespace {

using Clock = std::chrono::steady_clock;

// A request that waits for the engine, as what it will do with it, and what it does if
// there is none.
struct Waiting {
  std::uint64_t id;
  std::function<std::uint64_t(Engine&)> submit;
  std::function<void(EngineFinish, const std::string&)> fail;
};

}  // namespace

class IdleEngine::Impl {
 public:
  Impl(std::function<std::unique_ptr<Engine>()> make, IdleOptions options)
      : make_(std::move(make)), options_(options), thread_([this] { run(); }) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  std::uint64_t submit(EngineRequest request,
                       std::shared_ptr<EngineListener> listener) {
    if (request.prompt.size() >= static_cast<std::size_t>(options_.context_length))
      throw PromptTooLong(static_cast<int>(request.prompt.size()),
                          options_.context_length);
    const kernels::Sampler check(request.sampling, request.seed);
    const std::lock_guard lock(mutex_);
    used_ = Clock::now();
    if (engine_)
      return remember(engine_->submit(std::move(request), std::move(listener)));
    auto shared = std::make_shared<EngineRequest>(std::move(request));
    return wait({next_id_,
                 [shared, listener](Engine& engine) {
                   return engine.submit(std::move(*shared), listener);
                 },
                 [listener](EngineFinish finish, const std::string& error) {
                   listener->finished({.finish = finish, .error = error});
                 }});
  }

  std::uint64_t embed(std::vector<int> tokens,
                      std::function<void(std::vector<float>, std::string)> done) {
    if (tokens.size() >= static_cast<std::size_t>(options_.context_length))
      throw PromptTooLong(static_cast<int>(tokens.size()), options_.context_length);
    const std::lock_guard lock(mutex_);
    used_ = Clock::now();
    if (engine_) return remember(engine_->embed(std::move(tokens), std::move(done)));
    return wait({next_id_,
                 [tokens, done](Engine& engine) { return engine.embed(tokens, done); },
                 [done](EngineFinish, const std::string& error) {
                   done({}, error.empty() ? "cancelled" : error);
                 }});
  }

  void cancel(std::uint64_t id) {
    Waiting waiting{};
    {
      const std::lock_guard lock(mutex_);
      if (const auto inner = inner_ids_.find(id); inner != inner_ids_.end()) {
        if (engine_) engine_->cancel(inner->second);
        return;
      }
      for (auto at = waiting_.begin(); at != waiting_.end(); ++at)
        if (at->id == id) {
          waiting = std::move(*at);
          waiting_.erase(at);
          break;
        }
    }
    if (waiting.fail) waiting.fail(EngineFinish::kCancelled, "");
  }

  EngineStatus status() const {
    const std::lock_guard lock(mutex_);
    EngineStatus status = engine_ ? engine_->status() : EngineStatus{};
    status.waiting += static_cast<int>(waiting_.size());
    status.loaded = engine_ != nullptr;
    return status;
  }

  int context_length() const { return options_.context_length; }

 private:
  std::uint64_t remember(std::uint64_t inner) {
    // Old ones are of no use: cancelling what has finished does nothing.
    if (inner_ids_.size() > 4096) inner_ids_.erase(inner_ids_.begin());
    inner_ids_[next_id_] = inner;
    return next_id_++;
  }

  std::uint64_t wait(Waiting waiting) {
    if (static_cast<int>(waiting_.size()) >= options_.max_waiting)
      throw EngineBusy("the model is being loaded, and as many requests wait as may");
    waiting_.push_back(std::move(waiting));
    changed_.notify_all();
    return next_id_++;
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (!engine_ && !waiting_.empty()) {
        load(lock);
      } else if (engine_) {
        unload_if_idle(lock);
      } else {
        changed_.wait(lock);
      }
    }
    std::deque<Waiting> rest = std::move(waiting_);
    std::unique_ptr<Engine> engine = std::move(engine_);
    lock.unlock();
    for (const Waiting& one : rest) one.fail(EngineFinish::kCancelled, "");
  }

  void load(std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    std::unique_ptr<Engine> made;
    std::string error;
    try {
      made = make_();
    } catch (const std::exception& failure) {
      error = failure.what();
      log_error("the model could not be loaded: {}", error);
    }
    lock.lock();
    std::deque<Waiting> queue = std::move(waiting_);
    waiting_.clear();
    engine_ = std::move(made);
    used_ = Clock::now();
    std::deque<std::pair<Waiting, std::string>> failed;
    for (Waiting& one : queue) {
      if (!engine_) {
        failed.emplace_back(std::move(one), error);
        continue;
      }
      try {
        inner_ids_[one.id] = one.submit(*engine_);
      } catch (const std::exception& failure) {
        failed.emplace_back(std::move(one), failure.what());
      }
    }
    lock.unlock();
    for (const auto& [one, reason] : failed) one.fail(EngineFinish::kFailed, reason);
    lock.lock();
  }

  void unload_if_idle(std::unique_lock<std::mutex>& lock) {
    const EngineStatus status = engine_->status();
    if (status.running > 0 || status.waiting > 0) used_ = Clock::now();
    const auto due = used_ + options_.unload_after;
    if (Clock::now() < due) {
      changed_.wait_until(lock, due);
      return;
    }
    std::unique_ptr<Engine> engine = std::move(engine_);
    inner_ids_.clear();
    lock.unlock();
    engine.reset();
    log_info("the model is unloaded: nobody asked for {} s",
             options_.unload_after.count() / 1000);
    lock.lock();
  }

  const std::function<std::unique_ptr<Engine>()> make_;
  const IdleOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Engine> engine_;
  std::deque<Waiting> waiting_;
  std::map<std::uint64_t, std::uint64_t> inner_ids_;
  std::uint64_t next_id_ = 1;
  Clock::time_point used_ = Clock::now();
  bool stopping_ = false;
  std::thread thread_;
};

IdleEngine::IdleEngine(std::function<std::unique_ptr<Engine>()> make,
                       IdleOptions options)
    : impl_(std::make_unique<Impl>(std::move(make), options)) {}

IdleEngine::~IdleEngine() = default;

std::uint64_t IdleEngine::submit(EngineRequest request,
                                 std::shared_ptr<EngineListener> listener) {
  return impl_->submit(std::move(request), std::move(listener));
}

std::uint64_t IdleEngine::embed(
    std::vector<int> tokens,
    std::function<void(std::vector<float>, std::string)> done) {
  return impl_->embed(std::move(tokens), std::move(done));
}

void IdleEngine::cancel(std::uint64_t id) { impl_->cancel(id); }
EngineStatus IdleEngine::status() const { return impl_->status(); }
int IdleEngine::context_length() const { return impl_->context_length(); }

}  // namespace optiq::generation
