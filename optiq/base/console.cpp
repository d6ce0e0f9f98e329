#include "optiq/base/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

namespace optiq {
namespace {

// Never destroyed: threads may still write while the program ends.
struct Console {
  std::mutex mutex;
  std::string status;
};

Console& console() {
  static Console* const instance = new Console;
  return *instance;
}

void write_all(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

constexpr std::string_view kClearLine = "\r\033[K";

}  // namespace

bool stderr_is_terminal() {
  static const bool terminal = [] {
    const char* term = std::getenv("TERM");
    return ::isatty(STDERR_FILENO) != 0 && term && std::strcmp(term, "dumb") != 0;
  }();
  return terminal;
}

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    return size.ws_col;
  return 80;
}

void write_stderr_line(std::string_view line) {
  Console& c = console();
  std::lock_guard<std::mutex> lock(c.mutex);
  std::string text;
  if (!c.status.empty()) text += kClearLine;
  text.append(line);
  text += '\n';
  text += c.status;
  write_all(text);
}

void show_status(std::string_view status) {
  if (!stderr_is_terminal()) return;
  Console& c = console();
  std::lock_guard<std::mutex> lock(c.mutex);
  if (status.empty() && c.status.empty()) return;
  c.status =
      std::string(status.substr(0, static_cast<std::size_t>(terminal_columns() - 1)));
  write_all(std::string(kClearLine) + c.status);
}

}  // namespace optiq
