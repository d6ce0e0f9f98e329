#include "optiq/kernels/glu/glu.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

constexpr GluGate kGates[] = {GluGate::kSilu, GluGate::kGeluTanh};

// exp errs by 2 ulp and is held past e^87; a sigmoid's argument of up to `largest`
// gives its own rounding back as a relative error of the exponential.
double tolerance(double expected, double largest) {
  return (12 + 4 * largest) * kFloatEpsilon * std::abs(expected) + 1e-36;
}

TEST(Glu, EveryTargetAgreesWithTheReference) {
  for (const GluGate gate : kGates)
    for (const std::size_t n : {1u, 15u, 64u, 100u, 9001u}) {
      const auto g = guarded(random_floats(n, 1, 3)), u = guarded(random_floats(n, 2));
      const auto dy = guarded(random_floats(n, 3));
      GuardedFloats expected(n), by_gate(n), by_up(n), y(n), dg(n), du(n);
      const auto size = static_cast<std::int64_t>(n);
      ref::glu_rows(gate, g.data(), u.data(), expected.data(), size);
      ref::glu_backward_rows(gate, g.data(), u.data(), dy.data(), by_gate.data(),
                             by_up.data(), size);
      for_each_simd_target([&] {
        glu_product(gate, g.data(), u.data(), y.data(), size);
        glu_product_backward(gate, g.data(), u.data(), dy.data(), dg.data(), du.data(),
                             size);
        for (std::size_t i = 0; i < n; ++i) {
          const double argument = 1.6 * (std::abs(g[i]) + 0.05 * std::pow(g[i], 3.0));
          const double held = std::abs(argument);
          ASSERT_NEAR(y[i], expected[i], tolerance(expected[i], held)) << g[i];
          ASSERT_NEAR(du[i], by_up[i], tolerance(by_up[i], held)) << g[i];
          // The slope is a sum whose parts may cancel.
          const double parts = std::abs(dy[i] * u[i]) * (1 + held);
          ASSERT_NEAR(dg[i], by_gate[i], tolerance(parts, held)) << g[i];
        }
        std::vector<float> here(n);
        glu_product_here(gate, g.data(), u.data(), here.data(), size);
        EXPECT_EQ(here, std::vector<float>(y.begin(), y.end()));
      });
    }
}

TEST(Glu, FarGatesAreOneOrNothing) {
  const std::vector<float> g{200, -200, 1e20f, -1e20f, 0}, u{2, 2, 1, 1, 5};
  for (const GluGate gate : kGates)
    for_each_simd_target([&] {
      std::vector<float> y(5);
      glu_product(gate, g.data(), u.data(), y.data(), 5);
      EXPECT_EQ(y[0], 400);
      EXPECT_NEAR(y[1], 0, 1e-30);
      EXPECT_EQ(y[2], 1e20f);
      EXPECT_NEAR(y[3], 0, 1e-15);
      EXPECT_EQ(y[4], 0);
    });
}

TEST(GluPrimitive, ItsValueAndGradientAreThoseOfPlainOperations) {
  const auto data = random_floats(7 * 37, 7), more = random_floats(7 * 37, 8);
  const std::vector<mx::array> in{mx::array(data.data(), {7, 37}),
                                  mx::array(more.data(), {7, 37})};
  for (const GluGate gate : kGates) {
    const auto ours = [&](const std::vector<mx::array>& x) {
      return mx::sum(mx::square(glu_product(x[0], x[1], gate)));
    };
    const auto plain = [&](const std::vector<mx::array>& x) {
      const mx::array& a = x[0];
      const mx::array f =
          gate == GluGate::kSilu
              ? a * mx::sigmoid(a)
              : 0.5f * a *
                    (1 + mx::tanh(0.7978845608f *
                                  (a + 0.044715f * mx::power(a, mx::array(3)))));
      return mx::sum(mx::square(f * x[1]));
    };
    EXPECT_TRUE(mx::allclose(ours(in), plain(in), 1e-5).item<bool>());
    const auto g = mx::grad(ours, {0, 1})(in), p = mx::grad(plain, {0, 1})(in);
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_TRUE(mx::allclose(g[i], p[i], 1e-4, 1e-4).item<bool>());
  }
}

}  // namespace
}  // namespace optiq::kernels
