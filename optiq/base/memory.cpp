#include "optiq/base/memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/resource.h>
#elif defined(__GLIBC__)
#include <malloc.h>
#endif

namespace optiq {
namespace {

#if !defined(__APPLE__)
// A field such as "VmHWM:   1234 kB".
std::uint64_t proc_field_bytes(const char* path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, field.size(), field) == 0)
      return 1024 * std::strtoull(line.c_str() + field.size(), nullptr, 10);
  return 0;
}

// A number in a file of the control group; "max" and no file are none.
std::optional<std::uint64_t> cgroup_bytes(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}
#endif

}  // namespace

#if defined(__APPLE__)

std::uint64_t peak_rss_bytes() {
  rusage usage{};
  return ::getrusage(RUSAGE_SELF, &usage) == 0
             ? static_cast<std::uint64_t>(usage.ru_maxrss)
             : 0;
}

std::uint64_t current_rss_bytes() {
  mach_task_basic_info info{};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO,
                reinterpret_cast<task_info_t>(&info), &count) != KERN_SUCCESS)
    return 0;
  return info.resident_size;
}

std::uint64_t available_memory_bytes() { return physical_memory_bytes(); }

std::uint64_t physical_memory_bytes() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

#else

// VmHWM and not getrusage: that one starts from the peak of the program that started
// this one.
std::uint64_t peak_rss_bytes() {
  return proc_field_bytes("/proc/self/status", "VmHWM:");
}

std::uint64_t current_rss_bytes() {
  return proc_field_bytes("/proc/self/status", "VmRSS:");
}

std::uint64_t available_memory_bytes() {
  std::uint64_t bytes = proc_field_bytes("/proc/meminfo", "MemAvailable:");
  const auto limit = cgroup_bytes("/sys/fs/cgroup/memory.max");
  const auto used = cgroup_bytes("/sys/fs/cgroup/memory.current");
  if (limit && used) bytes = std::min(bytes, *limit > *used ? *limit - *used : 0);
  return bytes;
}

std::uint64_t physical_memory_bytes() {
  const std::uint64_t bytes = proc_field_bytes("/proc/meminfo", "MemTotal:");
  return std::min(bytes, cgroup_bytes("/sys/fs/cgroup/memory.max")
                             .value_or(std::numeric_limits<std::uint64_t>::max()));
}

#endif

void keep_freed_memory(std::uint64_t bytes) {
#if defined(__GLIBC__)
  const int limit = static_cast<int>(std::min<std::uint64_t>(bytes, 1 << 30));
  mallopt(M_MMAP_THRESHOLD, limit);
  mallopt(M_TRIM_THRESHOLD, limit);
#else
  (void)bytes;
#endif
}

}  // namespace optiq
