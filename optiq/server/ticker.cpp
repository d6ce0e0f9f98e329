#include "optiq/server/ticker.h"

#include "optiq/base/log.h"

namespace optiq::server {

Ticker::Ticker(std::chrono::milliseconds interval)
    : interval_(interval), thread_([this] { run(); }) {}

Ticker::~Ticker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Ticker::add(std::function<bool()> tick) {
  const std::lock_guard lock(mutex_);
  due_.push({Clock::now() + interval_, std::move(tick)});
  if (due_.size() == 1) changed_.notify_all();
}

void Ticker::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (due_.empty()) {
      changed_.wait(lock);
      continue;
    }
    if (Clock::now() < due_.front().when) {
      changed_.wait_until(lock, due_.front().when);
      continue;
    }
    Due next = std::move(due_.front());
    due_.pop();
    lock.unlock();
    bool again = false;
    try {
      again = next.tick();
    } catch (const std::exception& error) {
      log_error("a keep-alive failed: {}", error.what());
    }
    if (!again) next.tick = nullptr;  // what it holds goes while nothing is locked
    lock.lock();
    if (again) due_.push({Clock::now() + interval_, std::move(next.tick)});
  }
}

}  // namespace optiq::server
