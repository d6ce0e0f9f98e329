// Calls functions at intervals, on one thread for all of them.
#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

namespace optiq::server {

/// Sleeps while there is nothing to call.
///
/// Threads   any.
class Ticker {
 public:
  explicit Ticker(std::chrono::milliseconds interval);

  /// Waits for the call that is on its way; no other comes after it.
  ~Ticker();

  /// Calls `tick` each interval from now until it returns false. It must be quick and
  /// may call add(); what it throws ends it.
  void add(std::function<bool()> tick);

 private:
  using Clock = std::chrono::steady_clock;
  struct Due {
    Clock::time_point when;
    std::function<bool()> tick;
  };
  void run();

  const std::chrono::milliseconds interval_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<Due> due_;  // all have one interval: first in, first due
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace optiq::server
