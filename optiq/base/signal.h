// Ctrl-C asks the program to stop; loops look at it between steps.
#pragma once

namespace optiq {

/// The exit status of a program that the user stopped.
inline constexpr int kInterruptedExitCode = 130;

/// From now on SIGINT and SIGTERM set a flag; a second one ends the program at once
/// with kInterruptedExitCode.
void install_interrupt_handler();

/// True once the user asked to stop.
bool interrupted() noexcept;

/// Sleeps until the user asks to stop.
///
/// Requires  install_interrupt_handler() before
void wait_for_interrupt();

/// Throws Interrupted if the user asked to stop. Cost: one load.
void throw_if_interrupted();

/// Forgets that the user asked, where the answer was to stop one thing and go on.
void clear_interrupt() noexcept;

/// Sets the flag, as Ctrl-C does (for tests and embedding programs).
void request_interrupt() noexcept;

}  // namespace optiq
