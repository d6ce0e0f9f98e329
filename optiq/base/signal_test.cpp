#include "optiq/base/signal.h"

#include <gtest/gtest.h>

#include <csignal>

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
