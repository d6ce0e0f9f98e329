// Log lines on stderr: text for people, one JSON object a line for machines.
#pragma once
#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace optiq {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

/// Lines below `level` are dropped. Default: kInfo.
void set_log_level(LogLevel level);
LogLevel log_level();

void set_log_format(LogFormat format);
LogFormat log_format();

/// Writes one line: `optiq: warning: message` (kInfo lines carry no level), or
/// {"time": ..., "level": "warning", "message": ...}.
///
/// Threads   any.
void log(LogLevel level, std::string_view message);

template <class... Args>
void log_debug(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kDebug)
    log(LogLevel::kDebug, fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kInfo)
    log(LogLevel::kInfo, fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kWarning)
    log(LogLevel::kWarning, fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
void log_error(fmt::format_string<Args...> text, Args&&... args) {
  log(LogLevel::kError, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace optiq
