// What kernel tests share: every target in turn, seeded data, distances.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/simd_target.h"

namespace optiq::testing {

inline constexpr double kFloatEpsilon = 1.1920929e-7;  // 2^-23

/// Calls body() once per SIMD target that this CPU can run, forced, the reference last.
template <class Body>
void for_each_simd_target(Body&& body) {
  for (SimdTarget target : supported_simd_targets()) {
    SCOPED_TRACE(std::string("SIMD target ") + name(target));
    force_simd_target(target);
    body();
  }
  force_simd_target(std::nullopt);
}

inline std::vector<float> random_floats(std::size_t n, std::uint32_t seed,
                                        float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

inline double max_abs_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = d;  // NaN is kept
  }
  return worst;
}

}  // namespace optiq::testing
