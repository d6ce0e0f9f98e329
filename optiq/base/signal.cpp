#include "optiq/base/signal.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

#include "optiq/base/error.h"

namespace optiq {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "usable in a signal handler");

// Written to by the handler, so that a sleeper wakes; -1: there is no handler yet.
int wake_pipe[2] = {-1, -1};

extern "C" void on_signal(int) {
  if (flag.exchange(true)) ::_exit(kInterruptedExitCode);
  const int saved = errno;
  [[maybe_unused]] const auto written = ::write(wake_pipe[1], "!", 1);
  errno = saved;
}

void open_wake_pipe() {
  if (::pipe(wake_pipe) != 0) throw ResourceError("cannot open a pipe for signals");
  for (const int fd : wake_pipe) {
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
  }
}

}  // namespace

void install_interrupt_handler() {
  if (wake_pipe[0] < 0) open_wake_pipe();
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read that waits for the user returns
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() noexcept { return flag.load(std::memory_order_relaxed); }

void wait_for_interrupt() {
  OPTIQ_CHECK(wake_pipe[0] >= 0, "no handler is installed");
  while (!interrupted()) {
    pollfd readable{wake_pipe[0], POLLIN, 0};
    (void)::poll(&readable, 1, -1);
    char bytes[16];
    while (::read(wake_pipe[0], bytes, sizeof bytes) > 0) {
    }
  }
}

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted();
}

void clear_interrupt() noexcept { flag = false; }

void request_interrupt() noexcept {
  flag = true;
  if (wake_pipe[1] >= 0) [[maybe_unused]]
    const auto written = ::write(wake_pipe[1], "!", 1);
}

}  // namespace optiq
