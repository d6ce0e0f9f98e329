#include "optiq/base/signal.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <csignal>
#include <thread>

#include "optiq/base/error.h"

namespace optiq {
namespace {

TEST(Signal, CtrlCIsSeenAtTheNextLookAndCanBeForgotten) {
  install_interrupt_handler();
  EXPECT_NO_THROW(throw_if_interrupted());
  std::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  EXPECT_THROW(throw_if_interrupted(), Interrupted);
  clear_interrupt();
  EXPECT_NO_THROW(throw_if_interrupted());
}

TEST(Signal, ASleeperWakesEachTimeItIsAsked) {
  install_interrupt_handler();
  for (int round = 0; round < 3; ++round) {
    std::thread sleeper([] { wait_for_interrupt(); });
    ::kill(::getpid(), SIGTERM);
    sleeper.join();
    EXPECT_TRUE(interrupted());
    clear_interrupt();
  }
}

TEST(SignalDeathTest, ASecondCtrlCEndsTheProgramAtOnce) {
  EXPECT_EXIT(
      {
        install_interrupt_handler();
        std::raise(SIGTERM);
        std::raise(SIGINT);
      },
      ::testing::ExitedWithCode(kInterruptedExitCode), "");
}

}  // namespace
}  // namespace optiq
