#include <thread>

#include "command.h"
#include "mlx/device.h"
#include "mlx/version.h"
#include "optiq/base/format.h"
#include "optiq/base/memory.h"
#include "optiq/base/parallel.h"
#include "optiq/base/simd_target.h"

namespace optiq::app {
namespace {

namespace mx = mlx::core;

void info(Context& context) {
  std::vector<std::string> devices{"cpu"};
  if (mx::is_available(mx::Device(mx::Device::gpu))) devices.push_back("gpu");
  std::vector<std::string> targets;
  for (SimdTarget target : supported_simd_targets()) targets.emplace_back(name(target));
  const auto join = [](const std::vector<std::string>& parts) {
    return fmt::format("{}", fmt::join(parts, ", "));
  };

  Table table({"", ""});
  table.add_row({"optiq", OPTIQ_VERSION});
  table.add_row({"build", OPTIQ_BUILD});
  table.add_row({"MLX", mx::version()});
  table.add_row({"devices", join(devices)});
  table.add_row({"instruction set",
                 fmt::format("{} (of {})", name(simd_target()), join(targets))});
  table.add_row({"threads", fmt::format("{} (of {} CPUs)", thread_count(),
                                        std::thread::hardware_concurrency())});
  table.add_row(
      {"memory", fmt::format("{}, {} available", format_bytes(physical_memory_bytes()),
                             format_bytes(available_memory_bytes()))});
  context.out.write(table.text().substr(1));
  context.out.summary({{"version", OPTIQ_VERSION},
                       {"build", OPTIQ_BUILD},
                       {"mlx", mx::version()},
                       {"devices", devices},
                       {"simd", name(simd_target())},
                       {"simd_supported", targets},
                       {"threads", thread_count()},
                       {"memory_bytes", physical_memory_bytes()},
                       {"available_memory_bytes", available_memory_bytes()}});
}

}  // namespace

Run add_info(CLI::App&) { return info; }

}  // namespace optiq::app
