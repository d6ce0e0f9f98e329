#include "optiq/kernels/rms_norm/rms_norm.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/rms_norm/rms_norm_backward.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

struct Case {
  int rows, dim;
  bool gated;
};

TEST(RmsNorm, EveryTargetAgreesWithTheReference) {
  for (const Case& c : {Case{1, 1, false},
                        {3, 7, true},
                        {2, 64, false},
                        {5, 100, true},
                        {19, 1023, true},
                        {64, 256, false}}) {
    const auto n = static_cast<std::size_t>(c.rows) * static_cast<std::size_t>(c.dim);
    const auto x = guarded(random_floats(n, 1)), gate = guarded(random_floats(n, 2));
    const auto weight = guarded(random_floats(static_cast<std::size_t>(c.dim), 3));
    GuardedFloats expected(n), y(n);
    RmsNormArgs args{x.data(),
                     weight.data(),
                     c.gated ? gate.data() : nullptr,
                     expected.data(),
                     c.rows,
                     c.dim,
                     1e-6f};
    ref::rms_norm_rows(args, 0, c.rows);
    args.y = y.data();
    double largest = 0;
    for (float value : expected) largest = std::max(largest, std::abs(double(value)));
    for_each_simd_target([&] {
      rms_norm(args);
      // A sum of dim squares errs by at most dim eps; its root by half of that, and
      // five roundings follow.
      EXPECT_LE(max_abs_difference(y, expected),
                (c.dim / 2.0 + 8) * kFloatEpsilon * largest);
    });
  }
}

TEST(RmsNorm, KeepsZeroRowsZero) {
  for_each_simd_target([] {
    std::vector<float> x(40, 0.0f), weight(40, 2.0f), y(40, 1.0f);
    rms_norm({x.data(), weight.data(), nullptr, y.data(), 1, 40, 1e-6f});
    for (float value : y) EXPECT_EQ(value, 0.0f);
  });
}

TEST(RmsNorm, PassesNotANumberOn) {
  for_each_simd_target([] {
    std::vector<float> x(40, 1.0f), weight(40, 1.0f), y(40);
    x[7] = std::nanf("");
    rms_norm({x.data(), weight.data(), nullptr, y.data(), 1, 40, 1e-6f});
    EXPECT_TRUE(std::isnan(y[0]));
  });
}

TEST(RmsNormPrimitive, AgreesWithPlainMlxOperationsInValueAndGradient) {
  const auto data = random_floats(6 * 48, 4), w = random_floats(48, 5);
  const mx::array x(data.data(), {6, 48}), weight(w.data(), {48});
  const auto ours = [](const std::vector<mx::array>& in) {
    return mx::sum(mx::square(rms_norm(in[0], in[1], 1e-6f, in[0])));
  };
  const auto plain = [](const std::vector<mx::array>& in) {
    const mx::array n =
        in[0] * mx::rsqrt(mx::mean(mx::square(in[0]), -1, true) + 1e-6f);
    return mx::sum(mx::square(n * in[1] * in[0] * mx::sigmoid(in[0])));
  };
  const std::vector<mx::array> inputs{x, weight};
  EXPECT_TRUE(mx::allclose(ours(inputs), plain(inputs), 1e-5).item<bool>());
  const auto a = mx::grad(ours, {0, 1})(inputs), b = mx::grad(plain, {0, 1})(inputs);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>());
}

TEST(RmsNormBackward, EveryTargetAgreesWithTheReference) {
  for (const Case& c : {Case{1, 1, false},
                        {3, 7, true},
                        {5, 100, true},
                        {19, 1023, true},
                        {64, 256, false}}) {
    const auto n = static_cast<std::size_t>(c.rows) * static_cast<std::size_t>(c.dim);
    const auto x = guarded(random_floats(n, 1)), gate = guarded(random_floats(n, 2));
    const auto dy = guarded(random_floats(n, 4));
    const auto weight = guarded(random_floats(static_cast<std::size_t>(c.dim), 3));
    GuardedFloats expected(n), expected_gate(n), dx(n), dgate(n);
    RmsNormBackwardArgs args{{x.data(), weight.data(), c.gated ? gate.data() : nullptr,
                              nullptr, c.rows, c.dim, 1e-6f},
                             dy.data(),
                             expected.data(),
                             expected_gate.data()};
    ref::rms_norm_backward_rows(args, 0, c.rows);
    args.dx = dx.data();
    args.dgate = dgate.data();
    double largest = 1;
    for (float value : expected) largest = std::max(largest, std::abs(double(value)));
    for_each_simd_target([&] {
      rms_norm_backward(args);
      // As forward, and a second sum of dim products.
      const double tolerance = (2.0 * c.dim + 40) * kFloatEpsilon * largest;
      EXPECT_LE(max_abs_difference(dx, expected), tolerance);
      if (c.gated) EXPECT_LE(max_abs_difference(dgate, expected_gate), tolerance);
    });
  }
}

TEST(RmsNormBackward, ThePrimitivesGradientIsThatOfPlainOperations) {
  const auto data = random_floats(6 * 48, 4), w = random_floats(48, 5),
             g = random_floats(6 * 48, 6);
  const mx::array weight(w.data(), {48});
  const auto ours = [&](const std::vector<mx::array>& in) {
    return mx::sum(mx::square(rms_norm(in[0], weight, 1e-6f, in[1])));
  };
  const auto plain = [&](const std::vector<mx::array>& in) {
    const mx::array n =
        in[0] * mx::rsqrt(mx::mean(mx::square(in[0]), -1, true) + 1e-6f);
    return mx::sum(mx::square(n * weight * in[1] * mx::sigmoid(in[1])));
  };
  const std::vector<mx::array> in{mx::array(data.data(), {6, 48}),
                                  mx::array(g.data(), {6, 48})};
  const auto a = mx::grad(ours, {0, 1})(in), b = mx::grad(plain, {0, 1})(in);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>()) << i;
}

TEST(RmsNormPrimitive, ReadsTransposedInput) {
  const auto data = random_floats(6 * 48, 4), w = random_floats(6, 5);
  const mx::array x = mx::transpose(mx::array(data.data(), {6, 48}));
  const mx::array weight(w.data(), {6});
  EXPECT_TRUE(mx::allclose(rms_norm(x, weight, 1e-6f),
                           rms_norm(mx::contiguous(x), weight, 1e-6f), 0, 0)
                  .item<bool>());
}

}  // namespace
}  // namespace optiq::kernels
