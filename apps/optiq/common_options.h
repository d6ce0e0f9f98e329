// The flags that every command takes.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace optiq::app {

struct CommonOptions {
  std::string json;
  int threads = 0;  // 0: as many as the machine gives
  std::string device = "cpu";
  std::uint64_t seed = 0;
  bool verbose = false;
  bool quiet = false;
  std::string log_format = "text";
};

/// Adds the flags to a command.
void add_common_options(CLI::App& app, CommonOptions& options);

/// Sets log level and format, so that later errors are told in the form asked for.
void apply_log_options(const CommonOptions& options);

/// Sets device and threads.
///
/// Throws    ResourceError if the device is not there.
void apply_device_options(const CommonOptions& options);

}  // namespace optiq::app
