#include "optiq/base/simd_target.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace optiq {
namespace {

struct TargetName {
  SimdTarget target;
  const char* name;
};

constexpr TargetName kNames[] = {
    {SimdTarget::kScalar, "scalar"}, {SimdTarget::kNeon, "neon"},
    {SimdTarget::kAvx2, "avx2"},     {SimdTarget::kAvxVnni, "avxvnni"},
    {SimdTarget::kAvx512, "avx512"}, {SimdTarget::kAmx, "amx"},
};

#if defined(__x86_64__)
struct CpuId {
  unsigned a, b = 0, c, d = 0;
  CpuId(unsigned leaf, unsigned sub_leaf) : a(leaf), c(sub_leaf) {
    __asm__("cpuid" : "+a"(a), "+b"(b), "+c"(c), "+d"(d));
  }
};

// GCC 12 has no names for these two in __builtin_cpu_supports.
bool cpu_has_avx_vnni() { return (CpuId(7, 1).a >> 4) & 1; }
bool cpu_has_amx_int8() { return (CpuId(7, 0).d >> 24 & 3) == 3; }  // AMX-TILE too

// True where the system saves tiles (the bits 17 and 18 of XCR0) and lets this process
// use them: Linux asks to be asked, once for all threads.
bool may_use_tiles() {
#if defined(__linux__)
  if (!(CpuId(1, 0).c >> 27 & 1)) return false;  // no XGETBV
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return (low >> 17 & 3) == 3 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<SimdTarget> detect() {
  std::vector<SimdTarget> targets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 =
      avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni");
  if (avx512 && cpu_has_amx_int8() && may_use_tiles())
    targets.push_back(SimdTarget::kAmx);
  if (avx512) targets.push_back(SimdTarget::kAvx512);
  if (avx2 && cpu_has_avx_vnni()) targets.push_back(SimdTarget::kAvxVnni);
  if (avx2) targets.push_back(SimdTarget::kAvx2);
#elif defined(__aarch64__)
  targets.push_back(SimdTarget::kNeon);
#endif
  targets.push_back(SimdTarget::kScalar);
  return targets;
}

SimdTarget choose() {
  const char* wanted = std::getenv("OPTIQ_SIMD");
  const auto supported = supported_simd_targets();
  if (!wanted || !*wanted) return supported.front();
  std::string known;
  for (SimdTarget target : supported)
    known += (known.empty() ? "" : ", ") + std::string(name(target));
  const auto target = simd_target_from_name(wanted);
  if (!target)
    throw std::invalid_argument(
        fmt::format("OPTIQ_SIMD: expected one of {}, found '{}'", known, wanted));
  if (std::ranges::find(supported, *target) == supported.end())
    throw std::invalid_argument(fmt::format(
        "OPTIQ_SIMD: this machine cannot run '{}'; it can run {}", wanted, known));
  return *target;
}

constexpr int kNotForced = -1;
std::atomic<int> forced{kNotForced};

}  // namespace

const char* name(SimdTarget target) {
  for (const TargetName& row : kNames)
    if (row.target == target) return row.name;
  return "?";
}

std::optional<SimdTarget> simd_target_from_name(std::string_view name) {
  for (const TargetName& row : kNames)
    if (row.name == name) return row.target;
  return std::nullopt;
}

std::span<const SimdTarget> supported_simd_targets() {
  static const std::vector<SimdTarget> targets = detect();
  return targets;
}

SimdTarget simd_target() {
  const int now = forced.load(std::memory_order_relaxed);
  if (now != kNotForced) return static_cast<SimdTarget>(now);
  static const SimdTarget target = choose();
  return target;
}

void force_simd_target(std::optional<SimdTarget> target) {
  forced.store(target ? static_cast<int>(*target) : kNotForced);
}

}  // namespace optiq
