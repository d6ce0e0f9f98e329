#include "common_options.h"

#include <fmt/format.h>

#include <cstdlib>

#include "command.h"
#include "mlx/device.h"
#include "mlx/random.h"
#include "optiq/base/error.h"
#include "optiq/base/log.h"
#include "optiq/base/parallel.h"
#include "optiq/base/simd_target.h"

namespace optiq::app {

namespace mx = mlx::core;

CLI::Validator number_in(double low, double high) {
  return {[=](const std::string& text) {
            double value = 0;
            const bool inside =
                CLI::detail::lexical_cast(text, value) && value >= low && value <= high;
            return inside
                       ? ""
                       : fmt::format("expected {} to {}, found '{}'", low, high, text);
          },
          ""};
}

void add_common_options(CLI::App& app, CommonOptions& options) {
  const auto group = std::string("Common flags");
  app.add_option("--json", options.json,
                 "Write a summary of the run as one JSON object to FILE, or to stdout "
                 "if it is -")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--threads", options.threads, "Threads that compute (default: all)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->group(group);
  app.add_option("--device", options.device, "Where to compute: cpu or gpu")
      ->check(CLI::IsMember({"cpu", "gpu"}))
      ->type_name("DEVICE")
      ->capture_default_str()
      ->group(group);
  app.add_option("--seed", options.seed, "Seed of everything random")
      ->check(number_in(0, 0x1p64 - 2048))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  auto* verbose = app.add_flag("-v,--verbose", options.verbose, "Say more on stderr");
  auto* quiet = app.add_flag("-q,--quiet", options.quiet,
                             "Say nothing on stderr but warnings and errors");
  verbose->group(group)->excludes(quiet);
  quiet->group(group);
  app.add_option("--log-format", options.log_format, "Lines on stderr: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->type_name("FORMAT")
      ->capture_default_str()
      ->group(group);
}

void apply_log_options(const CommonOptions& options) {
  set_log_level(options.quiet     ? LogLevel::kWarning
                : options.verbose ? LogLevel::kDebug
                                  : LogLevel::kInfo);
  set_log_format(options.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
}

void apply_device_options(const CommonOptions& options) {
  const mx::Device device(options.device == "gpu" ? mx::Device::gpu : mx::Device::cpu);
  if (!mx::is_available(device))
    throw ResourceError(
        "--device gpu: no GPU is usable from this build; see 'optiq info'");
  // MLX reads it once. Products in TensorFloat-32 keep 10 bits of what is float32.
  if (options.device == "gpu") setenv("MLX_ENABLE_TF32", "0", /*replace=*/0);
  mx::set_default_device(device);
  if (options.threads > 0) set_thread_count(options.threads);
  mx::random::seed(options.seed);
  log_debug("device {}, {} threads, {}", options.device, thread_count(),
            name(simd_target()));
}

}  // namespace optiq::app
