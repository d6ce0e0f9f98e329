// What tests of operations on a GPU share: the same call there and on the CPU.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <vector>

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/kernels/linear/linear_primitive.h"

namespace optiq::testing {

namespace mx = mlx::core;

inline mx::array random_array(const mx::Shape& shape, std::uint64_t seed) {
  const mx::array x =
      mx::random::normal(shape, mx::float32, 0, 1, mx::random::key(seed));
  mx::eval(x);
  return x;
}

inline kernels::LinearWeight random_weight(int N, int K, const QuantSpec& spec,
                                           std::uint64_t seed) {
  const mx::array w = mx::astype(random_array({N, K}, seed) * 0.05f, mx::bfloat16);
  auto parts = mx::quantize(w, spec.group_size, spec.bits, name(spec.mode));
  kernels::LinearWeight weight{parts[0], parts[1], std::nullopt, std::nullopt, spec};
  if (parts.size() > 2) weight.biases = parts[2];
  for (const mx::array& part : parts) mx::eval(part);
  return weight;
}

/// Holds that `f` gives the same arrays on both devices, up to `share` of the largest
/// value of each.
template <class F>
void expect_same_on_both(F&& f, float share = 5e-5f) {
  mx::set_default_device(mx::Device::cpu);
  std::vector<mx::array> expected = f();
  mx::eval(expected);
  mx::set_default_device(mx::Device::gpu);
  std::vector<mx::array> found = f();
  mx::eval(found);
  mx::set_default_device(mx::Device::cpu);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_LT(mx::max(mx::abs(found[i] - expected[i])).item<float>(),
              share * mx::max(mx::abs(expected[i])).item<float>())
        << i;
}

class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!mx::is_available(mx::Device(mx::Device::gpu))) GTEST_SKIP() << "no GPU";
    setenv("MLX_ENABLE_TF32", "0", /*replace=*/0);  // as --device gpu does
    mx::set_default_device(mx::Device::cpu);
  }
};

}  // namespace optiq::testing
