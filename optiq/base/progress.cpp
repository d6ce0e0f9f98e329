#include "optiq/base/progress.h"

#include <fmt/format.h>

#include <algorithm>

#include "optiq/base/console.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"

namespace optiq {
namespace {

constexpr int kBarCells = 24;

std::string amount(std::int64_t n, const std::string& unit) {
  return unit == "B"
             ? format_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 0)))
             : fmt::format("{}", n);
}

}  // namespace

Progress::Progress(std::string what, std::int64_t total, std::string unit)
    : what_(std::move(what)),
      total_(std::max<std::int64_t>(total, 1)),
      unit_(std::move(unit)),
      bar_(stderr_is_terminal() && log_format() == LogFormat::kText) {}

Progress::~Progress() {
  if (bar_) show_status("");
}

void Progress::advance(std::int64_t n) {
  std::lock_guard<std::mutex> lock(mutex_);
  done_ += n;
  advanced_ = true;
  report();
}

void Progress::set(std::int64_t done) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!advanced_) {
    done_at_start_ = done;
    tenth_ = static_cast<int>(10 * std::min(done, total_) / total_);
  }
  done_ = done;
  report();
}

void Progress::describe(std::string text) {
  std::lock_guard<std::mutex> lock(mutex_);
  detail_ = std::move(text);
}

void Progress::report() {
  if (log_level() > LogLevel::kInfo) return;
  const auto now = Clock::now();
  if (bar_) {
    if (now - drawn_ < std::chrono::milliseconds(100) && done_ < total_) return;
    drawn_ = now;
    show_status(line(now));
    return;
  }
  const int tenth = static_cast<int>(10 * std::min(done_, total_) / total_);
  if (tenth <= tenth_) return;
  tenth_ = tenth;
  log(LogLevel::kInfo, line(now));
}

std::string Progress::line(Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::int64_t done = std::min(done_, total_);
  const double rate =
      seconds > 0 ? static_cast<double>(done_ - done_at_start_) / seconds : 0;
  std::string text = fmt::format("{} {:3}%", what_, 100 * done / total_);
  if (bar_) {
    const auto full = static_cast<std::size_t>(kBarCells * done / total_);
    text += " [" + std::string(full, '#') + std::string(kBarCells - full, '.') + "]";
  }
  text += fmt::format(" {}/{}", amount(done, unit_), amount(total_, unit_));
  if (unit_ != "B") text += " " + unit_;
  if (rate > 0) {
    text += unit_ == "B"
                ? fmt::format(", {}/s", amount(static_cast<std::int64_t>(rate), unit_))
                : fmt::format(", {:.3g}/s", rate);
    text += done < total_
                ? ", " + format_duration(static_cast<double>(total_ - done) / rate) +
                      " left"
                : ", " + format_duration(seconds);
  }
  if (!detail_.empty()) text += ", " + detail_;
  return text;
}

}  // namespace optiq
