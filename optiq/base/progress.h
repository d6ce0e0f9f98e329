// How far a long piece of work has come, on stderr.
#pragma once
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace optiq {

/// One piece of work of known size. On a terminal it is a bar with rate and time left,
/// redrawn at most ten times a second; elsewhere one line per 10 %; nothing where log
/// lines of level kInfo are dropped (-q).
///
/// Threads   any thread may advance it.
class Progress {
 public:
  /// `unit` names what is counted ("windows"); "B" counts bytes.
  Progress(std::string what, std::int64_t total, std::string unit);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Removes the bar, and says nothing more.
  ~Progress();

  void advance(std::int64_t n = 1);

  /// Sets how much is done; for work that resumes, what was done before does not count
  /// towards the rate if it is set before anything is advanced.
  void set(std::int64_t done);

  /// Text shown behind the bar, such as the layer in work.
  void describe(std::string text);

 private:
  using Clock = std::chrono::steady_clock;
  void report();
  std::string line(Clock::time_point now) const;

  const std::string what_;
  const std::int64_t total_;
  const std::string unit_;
  const bool bar_;
  const Clock::time_point start_ = Clock::now();
  mutable std::mutex mutex_;
  std::int64_t done_ = 0;
  std::int64_t done_at_start_ = 0;
  bool advanced_ = false;
  std::string detail_;
  Clock::time_point drawn_{};
  int tenth_ = 0;
};

}  // namespace optiq
