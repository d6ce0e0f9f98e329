
#include <functional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/gated_delta/gated_delta_backward_problem.h"
#include "optiq/kernels/gated_delta/gated_delta_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

TEST(GatedDeltaBackward, EveryTargetAgreesWithTheDefinition) {
  for (const auto& [Hk, Hv, Dk, Dv, tokens] : {std::tuple{1, 1, 8, 8, std::vector{1}},
                                               {1, 2, 16, 40, std::vector{5, 0, 33}},
                                               {2, 4, 24, 32, std::vector{16, 17}},
                                               {1, 1, 128, 128, std::vector{50}}}) {
    GatedDeltaProblem p(Hk, Hv, Dk, Dv, tokens, 1);
    const auto d_o = random_floats(p.o.size(), 2);
    DeltaGradients expected;
    force_simd_target(SimdTarget::kScalar);
    expected = gradients_of(p, d_o);
    for_each_simd_target([&] {
      const DeltaGradients g = gradients_of(p, d_o);
      // Sums over keys, columns and tokens of values of the size of the result.
      const double tolerance = 200 * kFloatEpsilon;
      EXPECT_LE(max_abs_difference(g.qkv, expected.qkv),
                tolerance * largest(expected.qkv));
      EXPECT_LE(max_abs_difference(g.a, expected.a), tolerance * largest(expected.a));
      EXPECT_LE(max_abs_difference(g.b, expected.b), tolerance * largest(expected.b));
    });
  }
}

TEST(GatedDeltaBackward, TheDefinitionAgreesWithFiniteDifferences) {
  GatedDeltaProblem p(1, 2, 6, 5, {7}, 3);
  const auto d_o = random_floats(p.o.size(), 4);
  force_simd_target(SimdTarget::kScalar);
  const auto loss = [&] {
    std::vector<float> after(p.state_size());
    GatedDeltaSegment segment{0, 7, p.states.data(), after.data()};
    GatedDeltaArgs args{p.qkv.data(),
                        p.a.data(),
                        p.b.data(),
                        p.qkv_stride(),
                        p.Hv + p.kGap,
                        p.Hv + p.kGap,
                        p.a_log.data(),
                        p.dt_bias.data(),
                        p.o.data(),
                        &segment,
                        1,
                        p.Hk,
                        p.Hv,
                        p.Dk,
                        p.Dv};
    gated_delta(args);
    double sum = 0;
    for (std::size_t i = 0; i < p.o.size(); ++i) sum += double(p.o[i]) * d_o[i];
    return sum;
  };
  const DeltaGradients g = gradients_of(p, d_o);
  const auto slope = [&](float& x) {
    constexpr float kStep = 1e-2f;
    const float kept = x;
    x = kept + kStep;
    const double up = loss();
    x = kept - kStep;
    const double down = loss();
    x = kept;
    return (up - down) / (2 * double(kStep));
  };
  const int width = p.qkv_stride() - p.kGap;
  for (int t = 0; t < p.T; ++t) {
    for (int i = 0; i < width; ++i)
      EXPECT_NEAR(slope(p.qkv[std::size_t(t * p.qkv_stride() + i)]),
                  g.qkv[std::size_t(t * width + i)], 2e-3);
    for (int h = 0; h < p.Hv; ++h) {
      EXPECT_NEAR(slope(p.a[std::size_t(t * (p.Hv + p.kGap) + h)]),
                  g.a[std::size_t(t * p.Hv + h)], 2e-3);
      EXPECT_NEAR(slope(p.b[std::size_t(t * (p.Hv + p.kGap) + h)]),
                  g.b[std::size_t(t * p.Hv + h)], 2e-3);
    }
  }
  force_simd_target(std::nullopt);
}

TEST(GatedDeltaBackward, ThePrimitivesGradientIsThatOfItsPlainOperations) {
  const GatedDeltaOptions options{1, 2, 16, 24};
  const Segment segments[] = {{70, 0}, {9, 0}};
  const auto of = [](std::uint32_t seed, mx::Shape shape, float scale = 1) {
    std::size_t n = 1;
    for (const int d : shape) n *= std::size_t(d);
    return mx::array(random_floats(n, seed, scale).data(), std::move(shape));
  };
  const mx::array a_log = of(1, {2}), dt_bias = of(2, {2});
  const auto state = [&](std::uint32_t seed) { return of(seed, {2, 16, 24}, 0.3f); };
  const auto loss = [&](const std::vector<mx::array>& in) {
    const auto [o, states] = gated_delta(in[0], in[1], in[2], a_log, dt_bias, segments,
                                         {in[3], state(8)}, options);
    return mx::sum(mx::square(o)) + mx::sum(mx::square(states[0]));
  };
  const std::vector<mx::array> in{of(3, {79, 80}), of(4, {79, 2}), of(5, {79, 2}),
                                  state(7)};
  // Asked for a state's gradient too, it takes that of its plain operations.
  const auto ours = mx::grad(loss, {0, 1, 2})(in);
  const auto plain = mx::grad(loss, {0, 1, 2, 3})(in);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(mx::allclose(ours[i], plain[i], 1e-3, 1e-3).item<bool>()) << i;
}

}  // namespace
}  // namespace optiq::kernels
