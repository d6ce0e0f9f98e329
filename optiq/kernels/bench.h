// What kernel benchmarks share: a CSV line for each measurement, and the limits of the
// machine to set beside it.
#pragma once
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/base/read_bandwidth.h"
#include "optiq/base/simd_target.h"

namespace optiq::bench {

struct Times {
  double median_us, p10, p90;
};

/// Runs `run` three times to warm up, then `runs` times.
template <class Run>
Times measure(Run&& run, int runs = 21) {
  std::vector<double> us;
  for (int i = -3; i < runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::micro> elapsed =
        std::chrono::steady_clock::now() - begin;
    if (i >= 0) us.push_back(elapsed.count());
  }
  std::ranges::sort(us);
  return {us[us.size() / 2], us[us.size() / 10], us[us.size() * 9 / 10]};
}

/// Bytes per second that all threads read from memory together.
inline double read_bandwidth() {
  static ReadBandwidth memory;
  return memory.median();
}

#if defined(__x86_64__)
namespace internal {
template <class Vec>
__attribute__((always_inline)) inline void multiply_adds(float* result, int n) {
  Vec s[12];
  for (Vec& v : s) v = Vec{} + result[0];
  const Vec x = Vec{} + result[1];
  for (int i = 0; i < n; ++i)
#pragma GCC unroll 12
    for (Vec& v : s) v = v * x + x;
  for (Vec& v : s) result[0] += v[0];
}
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec16 __attribute__((vector_size(64)));
__attribute__((target("avx2,fma"), optimize("O3"))) inline void with_avx2(float* r,
                                                                          int n) {
  multiply_adds<Vec8>(r, n);
}
__attribute__((target("avx512f"), optimize("O3"))) inline void with_avx512(float* r,
                                                                           int n) {
  multiply_adds<Vec16>(r, n);
}
}  // namespace internal
#endif

/// Float operations per second of all threads with the target's multiply-adds; 0 where
/// nothing measures it.
inline double multiply_add_peak() {
#if defined(__x86_64__)
  const bool wide = simd_target() >= SimdTarget::kAvx512;
  constexpr int kSteps = 200000;
  const auto pieces = static_cast<std::size_t>(thread_count()) * 4;
  std::vector<float> results(pieces * 16, 1e-3f);
  const Times times = measure([&] {
    parallel_for(pieces, [&](std::size_t piece) {
      float* r = results.data() + piece * 16;
      r[1] = 1e-3f;
      wide ? internal::with_avx512(r, kSteps) : internal::with_avx2(r, kSteps);
    });
  });
  return static_cast<double>(pieces) * kSteps * 12 * (wide ? 16 : 8) * 2 /
         (times.p10 * 1e-6);
#else
  return 0;
#endif
}

inline void print_header() {
  fmt::print("name,shape,variant,median_us,p10,p90,rate,unit,percent_of_peak,label\n");
}

/// One line; `amount` is what one run moves (bytes) or computes (operations), `peak`
/// the machine's limit per second.
inline void print_line(const std::string& name, const std::string& shape,
                       const Times& times, double amount, const char* unit, double peak,
                       const char* label) {
  const double rate = amount / (times.median_us * 1e-6);
  fmt::print("{},{},{},{:.1f},{:.1f},{:.1f},{:.1f},{},{:.0f},{}\n", name, shape,
             optiq::name(simd_target()), times.median_us, times.p10, times.p90,
             rate * 1e-9, unit, peak > 0 ? 100 * rate / peak : 0, label);
  std::fflush(stdout);
}

}  // namespace optiq::bench
