#include "optiq/kernels/elementwise/elementwise.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

TEST(ScaledSum, EveryTargetAgreesWithTheReference) {
  for (const std::size_t n : {1u, 17u, 64u, 40000u}) {
    const auto a = guarded(random_floats(n, 1)), b = guarded(random_floats(n, 2));
    GuardedFloats expected(n), y(n);
    const auto size = static_cast<std::int64_t>(n);
    for (const float* other : {static_cast<const float*>(nullptr), b.data()}) {
      ref::scaled_sum_rows(a.data(), other, 1.7f, expected.data(), size);
      for_each_simd_target([&] {
        scaled_sum(a.data(), other, 1.7f, y.data(), size);
        EXPECT_LE(max_abs_difference(y, expected), 8 * kFloatEpsilon);
      });
    }
  }
}

TEST(Softcap, EveryTargetAgreesWithTheReference) {
  auto values = random_floats(1003, 1, 60);
  values.insert(values.end(), {0.0f, 1e-6f, 3e4f, -3e4f, INFINITY, -INFINITY});
  const auto x = guarded(values);
  GuardedFloats expected(values.size()), y(values.size());
  const auto n = static_cast<std::int64_t>(values.size());
  ref::softcap_rows(x.data(), 30, expected.data(), n);
  for_each_simd_target([&] {
    softcap(x.data(), 30, y.data(), n);
    EXPECT_LE(max_abs_difference(y, expected), 30 * 8 * kFloatEpsilon);
  });
}

TEST(GatedSum, ItsValueAndGradientAreThoseOfPlainOperations) {
  const auto data = random_floats(60, 3), more = random_floats(60, 4);
  const auto gates = random_floats(5, 5);
  const std::vector<mx::array> in{mx::array(data.data(), {5, 12}),
                                  mx::array(more.data(), {5, 12}),
                                  mx::array(gates.data(), {5, 1})};
  const auto ours = [](const std::vector<mx::array>& x) {
    return mx::sum(mx::square(gated_sum(x[0], x[1], x[2])));
  };
  const auto plain = [](const std::vector<mx::array>& x) {
    return mx::sum(mx::square(x[0] + mx::sigmoid(x[2]) * x[1]));
  };
  EXPECT_TRUE(mx::allclose(ours(in), plain(in), 1e-5).item<bool>());
  const auto g = mx::grad(ours, {0, 1, 2})(in), p = mx::grad(plain, {0, 1, 2})(in);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(mx::allclose(g[i], p[i], 1e-4, 1e-4).item<bool>());
}

TEST(ElementwisePrimitives, TheirGradientsAreThoseOfPlainOperations) {
  const auto data = random_floats(60, 3), more = random_floats(60, 4);
  const std::vector<mx::array> in{mx::array(data.data(), {5, 12}),
                                  mx::array(more.data(), {5, 12})};
  const auto ours = [](const std::vector<mx::array>& x) {
    return mx::sum(mx::square(softcap(scaled_sum(x[0], x[1], 3), 2)));
  };
  const auto plain = [](const std::vector<mx::array>& x) {
    return mx::sum(mx::square(2 * mx::tanh((x[0] + x[1]) * 3 / 2)));
  };
  EXPECT_TRUE(mx::allclose(ours(in), plain(in), 1e-5).item<bool>());
  const auto g = mx::grad(ours, {0, 1})(in), p = mx::grad(plain, {0, 1})(in);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(mx::allclose(g[i], p[i], 1e-4, 1e-4).item<bool>());
}

}  // namespace
}  // namespace optiq::kernels
