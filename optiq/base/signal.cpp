#include "optiq/base/signal.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "optiq/base/error.h"

namespace optiq {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "usable in a signal handler");

extern "C" void on_signal(int) {
  if (flag.exchange(true)) ::_exit(kInterruptedExitCode);
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read that waits for the user returns
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() noexcept { return flag.load(std::memory_order_relaxed); }

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted();
}

void clear_interrupt() noexcept { flag = false; }

void request_interrupt() noexcept { flag = true; }

}  // namespace optiq
