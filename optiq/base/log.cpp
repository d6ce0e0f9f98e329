#include "optiq/base/log.h"

#include <atomic>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>

#include "optiq/base/console.h"

namespace optiq {
namespace {

std::atomic<LogLevel> current_level{LogLevel::kInfo};
std::atomic<LogFormat> current_format{LogFormat::kText};

const char* name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "?";
}

// 2026-01-31T12:34:56.789Z
std::string utc_now() {
  using namespace std::chrono;
  const auto now = system_clock::now();
  const std::time_t seconds = system_clock::to_time_t(now);
  const auto ms = duration_cast<milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
                     parts.tm_sec, ms);
}

// A message is one line whatever it quotes.
std::string one_line(std::string_view message) {
  std::string line(message);
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  return line;
}

}  // namespace

void set_log_level(LogLevel level) { current_level = level; }
LogLevel log_level() { return current_level; }
void set_log_format(LogFormat format) { current_format = format; }
LogFormat log_format() { return current_format; }

void log(LogLevel level, std::string_view message) {
  if (level < current_level.load()) return;
  if (current_format.load() == LogFormat::kJson) {
    const nlohmann::ordered_json line = {
        {"time", utc_now()}, {"level", name_of(level)}, {"message", message}};
    write_stderr_line(
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  const std::string prefix =
      level == LogLevel::kInfo ? "optiq: " : fmt::format("optiq: {}: ", name_of(level));
  write_stderr_line(prefix + one_line(message));
}

}  // namespace optiq
