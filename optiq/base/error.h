// The kinds of failure that optiq tells apart, and the check for our own mistakes.
//
// std::invalid_argument is the caller's mistake (a flag, a request); CheckpointError is
// bad bytes on disk; ResourceError is memory, a device or the network. Anything else is
// a bug. A message is one line: what was expected, what was found, where.
#pragma once
#include <stdexcept>
#include <string>

namespace optiq {

/// Bad bytes in a file, or a file that is not there. The message names the file and,
/// where there is one, the tensor.
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Memory, disk space, a device or the network could not give what was asked.
class ResourceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user asked the program to stop (Ctrl-C); nothing is wrong.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);

}  // namespace optiq

/// Stops on a broken invariant of our own, in release builds too (std::logic_error).
#define OPTIQ_CHECK(condition, message)                                 \
  do {                                                                  \
    if (!(condition))                                                   \
      ::optiq::check_failed(#condition, __FILE__, __LINE__, (message)); \
  } while (false)
