#include "optiq/kernels/gated_delta/gated_delta.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_problem.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

double largest(std::span<const float> values) {
  double most = 0;
  for (float value : values) most = std::max(most, std::abs(double(value)));
  return most;
}

GatedDeltaProblem reference(GatedDeltaProblem problem) {
  force_simd_target(SimdTarget::kScalar);
  problem.run();
  force_simd_target(std::nullopt);
  return problem;
}

// Dot products of Dk terms err by about sqrt(Dk) roundings of their size, and a
// rounding is carried on by a state that never grows in norm; 1e-5 leaves a factor of
// ten.
constexpr double kTolerance = 1e-5;

void expect_close(const GatedDeltaProblem& got, const GatedDeltaProblem& expected,
                  double tolerance = kTolerance) {
  EXPECT_LE(max_abs_difference(got.o, expected.o),
            tolerance * std::max(largest(expected.o), 1e-3));
  EXPECT_LE(max_abs_difference(got.states, expected.states),
            tolerance * std::max(largest(expected.states), 1e-3));
}

struct Shape {
  int Hk, Hv, Dk, Dv;
};

TEST(GatedDelta, EveryTargetAndFormAgreesWithTheReference) {
  for (const Shape& s :
       {Shape{1, 1, 16, 32}, Shape{2, 2, 64, 32}, Shape{1, 2, 128, 128},
        Shape{1, 4, 16, 128}, Shape{2, 4, 24, 7}, Shape{1, 1, 5, 45}, Shape{1, 1, 1, 1},
        Shape{1, 2, 64, 100}})
    for (int T : {1, 2, 3, 8, 15, 16, 17, 63, 64, 65, 200}) {
      SCOPED_TRACE(::testing::Message() << "Hk " << s.Hk << " Hv " << s.Hv << " Dk "
                                        << s.Dk << " Dv " << s.Dv << " T " << T);
      GatedDeltaProblem problem(s.Hk, s.Hv, s.Dk, s.Dv, {T}, 1);
      const GatedDeltaProblem expected = reference(problem);
      for (auto form :
           {GatedDeltaForm::kByLength, GatedDeltaForm::kStep, GatedDeltaForm::kChunk})
        for_each_simd_target([&] {
          GatedDeltaProblem run = problem;
          run.form = form;
          run.run();
          expect_close(run, expected);
        });
    }
}

TEST(GatedDelta, StepByStepEqualsOneCall) {
  const GatedDeltaProblem whole(2, 4, 64, 32, {70}, 2);
  const GatedDeltaProblem expected = reference(whole);
  for_each_simd_target([&] {
    GatedDeltaProblem steps = whole;
    for (int t = 0; t < 70; ++t) steps.run_rows(t, 1);
    expect_close(steps, expected);
  });
}

// So that the tokens of a draft, checked together, leave the state of a plain decode.
TEST(GatedDelta, EightTokensEqualEightStepsBitForBit) {
  const GatedDeltaProblem problem(2, 4, 64, 40, {8}, 17);
  for_each_simd_target([&] {
    if (simd_target() == SimdTarget::kScalar) return;  // keeps doubles within a call
    GatedDeltaProblem whole = problem, steps = problem;
    whole.run();
    for (int t = 0; t < 8; ++t) steps.run_rows(t, 1);
    EXPECT_EQ(whole.o, steps.o);
    EXPECT_EQ(whole.states, steps.states);
  });
}

TEST(GatedDelta, RaggedSegmentsEqualSeparateCallsBitForBit) {
  for_each_simd_target([] {
    GatedDeltaProblem together(2, 4, 64, 48, {3, 0, 40, 1, 17}, 3);
    GatedDeltaProblem apart = together;
    together.run();
    for (int segment = 0; segment < 5; ++segment) apart.run_segment(segment);
    EXPECT_EQ(together.o, apart.o);
    EXPECT_EQ(together.states, apart.states);
  });
}

TEST(GatedDelta, GivesTheSameBitsForAnyNumberOfThreads) {
  const int threads = thread_count();
  for_each_simd_target([&] {
    GatedDeltaProblem one(1, 2, 128, 128, {1, 33}, 4), many = one;
    set_thread_count(1);
    one.run();
    set_thread_count(13);
    many.run();
    EXPECT_EQ(one.o, many.o);
    EXPECT_EQ(one.states, many.states);
  });
  set_thread_count(threads);
}

TEST(GatedDelta, WritesTheNewStateApartFromTheOldOne) {
  for_each_simd_target([] {
    for (int T : {0, 1, 33}) {
      GatedDeltaProblem in_place(1, 2, 64, 37, {T}, 5), apart = in_place;
      const GuardedFloats before = apart.states;
      in_place.run();
      GuardedFloats after(before.size());
      apart.run_into(after);
      EXPECT_EQ(apart.states, before);
      EXPECT_EQ(after, in_place.states);
      EXPECT_EQ(apart.o, in_place.o);
    }
  });
}

TEST(GatedDelta, ForgetsEverythingAtALargeDecayAndNothingAtNone) {
  for (int T : {1, 40})
    for (float a : {200.0f, -200.0f, std::numeric_limits<float>::infinity()}) {
      GatedDeltaProblem problem(1, 2, 64, 32, {T}, 6);
      // Every third token forgets; sums of logarithms would lose the small ones.
      for (std::size_t i = 0; i < problem.a.size(); i += 3) problem.a[i] = a;
      const GatedDeltaProblem expected = reference(problem);
      for_each_simd_target([&] {
        GatedDeltaProblem run = problem;
        run.run();
        expect_close(run, expected);
      });
    }
}

TEST(GatedDelta, WritesNothingWhereBetaIsZero) {
  for_each_simd_target([] {
    for (int T : {1, 40}) {
      GatedDeltaProblem problem(1, 2, 64, 32, {T}, 7);
      std::fill(problem.b.begin(), problem.b.end(), -200.0f);  // sigmoid 0
      std::fill(problem.a.begin(), problem.a.end(), -200.0f);  // decay 1
      const GuardedFloats before = problem.states;
      problem.run();
      EXPECT_EQ(problem.states, before);
    }
  });
}

TEST(GatedDelta, RecallsTheLastValueOfAKeyAtBetaOne) {
  for_each_simd_target([] {
    for (int T : {1, 40}) {
      GatedDeltaProblem problem(1, 1, 64, 32, {T}, 8);
      std::fill(problem.b.begin(), problem.b.end(), 200.0f);   // sigmoid 1
      std::fill(problem.a.begin(), problem.a.end(), -200.0f);  // decay 1
      // The same key for all tokens, and the last query is that key.
      for (int t = 0; t < T; ++t)
        for (int i = 0; i < 64; ++i)
          problem.key(t, 0)[i] = problem.query(t, 0)[i] = i % 3 - 1.0f;
      problem.run();
      for (int c = 0; c < 32; ++c)
        EXPECT_NEAR(problem.o[static_cast<std::size_t>((T - 1) * 32 + c)] * 8,
                    problem.value(T - 1, 0)[c], 1e-4);
    }
  });
}

TEST(GatedDelta, AKeyOfZerosChangesNothingAndStaysFinite) {
  for_each_simd_target([] {
    for (int T : {1, 40}) {
      GatedDeltaProblem problem(1, 1, 64, 32, {T}, 9);
      std::fill(problem.a.begin(), problem.a.end(), -200.0f);
      for (int t = 0; t < T; ++t)
        for (int i = 0; i < 64; ++i) problem.key(t, 0)[i] = problem.query(t, 0)[i] = 0;
      const GuardedFloats before = problem.states;
      problem.run();
      EXPECT_EQ(problem.states, before);
      for (float value : problem.o) EXPECT_EQ(value, 0.0f);
    }
  });
}

TEST(GatedDelta, KeepsNotANumberInItsSequence) {
  for_each_simd_target([] {
    GatedDeltaProblem clean(1, 2, 64, 48, {20, 20, 1}, 10), dirty = clean;
    dirty.key(25, 0)[3] = std::nanf("");
    clean.run();
    dirty.run();
    const std::size_t rows = 20 * 2 * 48;
    const auto equal = [](const auto& a, const auto& b, std::size_t from,
                          std::size_t to) {
      for (std::size_t i = from; i < to; ++i)
        if (a[i] != b[i]) return false;
      return true;
    };
    EXPECT_TRUE(equal(clean.o, dirty.o, 0, rows));
    EXPECT_TRUE(equal(clean.o, dirty.o, 2 * rows, clean.o.size()));
    EXPECT_TRUE(std::isnan(dirty.o[2 * rows - 1]));
    const std::size_t state = 2 * 64 * 48;
    EXPECT_TRUE(equal(clean.states, dirty.states, 0, state));
    EXPECT_TRUE(equal(clean.states, dirty.states, 2 * state, 3 * state));
    EXPECT_TRUE(std::isnan(dirty.states[state]));
  });
}

// The problem as MLX arrays: qkv, a, b (views with gaps between rows), a_log, dt_bias,
// then the states.
std::vector<mx::array> arrays_of(const GatedDeltaProblem& p) {
  const auto view = [&](const GuardedFloats& x, int width) {
    const int stride = width + GatedDeltaProblem::kGap;
    std::vector<float> whole(x.begin(), x.end());
    whole.resize(static_cast<std::size_t>(p.T * stride));
    return mx::slice(mx::array(whole.data(), {p.T, stride}), {0, 0}, {p.T, width});
  };
  std::vector<mx::array> arrays{
      view(p.qkv, 2 * p.Hk * p.Dk + p.Hv * p.Dv), view(p.a, p.Hv), view(p.b, p.Hv),
      mx::array(p.a_log.data(), {p.Hv}), mx::array(p.dt_bias.data(), {p.Hv})};
  for (std::size_t i = 0; i < p.tokens.size(); ++i)
    arrays.push_back(
        mx::array(p.states.data() + i * p.state_size(), {p.Hv, p.Dk, p.Dv}));
  return arrays;
}

// o and the new states, side by side.
std::vector<mx::array> run_primitive(const GatedDeltaProblem& p,
                                     const std::vector<mx::array>& in) {
  std::vector<Segment> segments;
  for (int tokens : p.tokens) segments.push_back({tokens, 0});
  auto [o, states] = gated_delta(in[0], in[1], in[2], in[3], in[4], segments,
                                 {in.begin() + 5, in.end()}, {p.Hk, p.Hv, p.Dk, p.Dv});
  states.insert(states.begin(), o);
  return states;
}

mx::array random_like(const mx::array& x, std::uint32_t seed) {
  const auto values = random_floats(x.size(), seed);
  return mx::array(values.data(), x.shape());
}

// A number that depends on every output.
mx::array weighted_sum(const std::vector<mx::array>& outputs) {
  mx::array sum(0.0f);
  for (std::size_t i = 0; i < outputs.size(); ++i)
    sum = sum + mx::sum(outputs[i] *
                        random_like(outputs[i], 100 + static_cast<std::uint32_t>(i)));
  return sum;
}

TEST(GatedDeltaPrimitive, AgreesWithPlainMlxOperations) {
  for (const std::vector<int>& tokens :
       {std::vector<int>{1}, {2, 1}, {65, 0, 30}, {0}, {150}}) {
    const GatedDeltaProblem problem(2, 4, 32, 24, tokens, 11);
    const auto in = arrays_of(problem);
    const auto ours = run_primitive(problem, in);
    const auto plain =
        dynamic_cast<const FusedPrimitive&>(ours[0].primitive()).fallback()(in);
    ASSERT_EQ(ours.size(), plain.size());
    for (std::size_t i = 0; i < ours.size(); ++i)
      EXPECT_TRUE(mx::allclose(ours[i], plain[i], 1e-5, 1e-5).item<bool>()) << i;
  }
}

// Expected values: torch_recurrent_gated_delta_rule of transformers 5.17 with
// use_qk_l2norm_in_kernel, on the same sines.
TEST(GatedDeltaPrimitive, ComputesWhatTransformersComputes) {
  const auto sines = [](mx::Shape shape, float step, float first) {
    int n = 1;
    for (int dim : shape) n *= dim;
    return mx::reshape(mx::sin(mx::arange(n) * step + first), shape);
  };
  const Segment segment{5, 0};
  auto [o, states] = gated_delta(sines({5, 28}, 0.7f, 0.3f), sines({5, 4}, 0.9f, 0.1f),
                                 sines({5, 4}, 1.3f, 0.2f), sines({4}, 1.1f, 0.4f),
                                 sines({4}, 0.5f, 0.6f), {&segment, 1},
                                 {sines({4, 4, 3}, 0.37f, 0.8f)}, {2, 4, 4, 3});
  const std::vector<float> last_row{0.249874f,  0.124784f, -0.058999f, -0.130225f,
                                    -0.166599f, -0.12462f, -0.006901f, 0.057426f,
                                    0.094745f,  0.090932f, -0.01958f,  -0.122636f};
  const std::vector<float> last_state{-0.491244f, -0.38835f, -0.100944f, -0.30928f,
                                      -0.331627f, -0.19905f, 0.010217f,  -0.120792f,
                                      -0.199075f, 0.335089f, 0.161373f,  -0.08858f};
  // Six decimals are given; sines of arguments up to 100 differ by 1e-5 in float.
  EXPECT_TRUE(mx::allclose(mx::slice(o, {4, 0}, {5, 12}),
                           mx::array(last_row.data(), {1, 12}), 0, 3e-5)
                  .item<bool>());
  EXPECT_TRUE(mx::allclose(mx::slice(states[0], {3, 0, 0}, {4, 4, 3}),
                           mx::array(last_state.data(), {1, 4, 3}), 0, 3e-5)
                  .item<bool>());
}

TEST(GatedDeltaPrimitive, HasTheGradientOfItsFiniteDifferences) {
  const GatedDeltaProblem problem(1, 2, 6, 5, {7, 2}, 12);
  const auto in = arrays_of(problem);
  const auto f = [&](const std::vector<mx::array>& x) {
    return weighted_sum(run_primitive(problem, x));
  };
  std::vector<int> argnums(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) argnums[i] = static_cast<int>(i);
  const auto gradients = mx::grad(f, argnums)(in);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const mx::array direction = random_like(in[i], 50 + static_cast<std::uint32_t>(i));
    const auto moved = [&](float step) {
      auto x = in;
      x[i] = x[i] + mx::array(step) * direction;
      return f(x).item<float>();
    };
    constexpr float kStep = 4e-3f;
    const double measured = (double(moved(kStep)) - moved(-kStep)) / (2 * kStep);
    const double exact = mx::sum(gradients[i] * direction).item<float>();
    // Curvature errs by kStep^2, rounding of f by 1e-7 |f| / kStep.
    EXPECT_NEAR(measured, exact, 5e-3 * (1 + std::abs(exact))) << "input " << i;
  }
}

TEST(GatedDeltaPrimitive, LeavesAStateThatOthersHoldAsItWas) {
  const GatedDeltaProblem problem(1, 2, 32, 24, {1}, 13);
  auto in = arrays_of(problem);
  mx::eval(in);
  const mx::array before = mx::array(problem.states.data(), in[5].shape());
  mx::eval(run_primitive(problem, in));
  EXPECT_TRUE(mx::array_equal(in[5], before).item<bool>());
}

TEST(GatedDeltaPrimitive, MovesAStateOnInPlaceWhereNobodyHoldsIt) {
  const GatedDeltaProblem problem(1, 2, 32, 24, {1}, 14);
  auto in = arrays_of(problem);
  mx::eval(in);
  const float* memory = in[5].data<float>();
  const Segment segment{1, 0};
  std::vector<mx::array> states{std::move(in[5])};
  in.pop_back();
  auto [o, next] = gated_delta(in[0], in[1], in[2], in[3], in[4], {&segment, 1},
                               std::move(states), {1, 2, 32, 24});
  mx::eval({o, next[0]});
  EXPECT_EQ(next[0].data<float>(), memory);
}

TEST(GatedDeltaPrimitive, OneStateGivenToTwoSegmentsServesBoth) {
  GatedDeltaProblem problem(1, 2, 32, 24, {3, 3}, 15);
  auto in = arrays_of(problem);
  in[6] = in[5];
  std::copy_n(
      problem.states.begin(), problem.state_size(),
      problem.states.begin() + static_cast<std::ptrdiff_t>(problem.state_size()));
  problem.run();
  const auto out = run_primitive(problem, in);
  const mx::array expected(problem.states.data() + problem.state_size(), {2, 32, 24});
  EXPECT_TRUE(mx::array_equal(out[2], expected).item<bool>());
}

TEST(GatedDeltaPrimitive, RefusesShapesThatDoNotFit) {
  const GatedDeltaProblem problem(2, 4, 8, 8, {3}, 16);
  const auto in = arrays_of(problem);
  for (std::size_t i = 0; i < in.size(); ++i) {
    auto wrong = in;
    wrong[i] = mx::zeros({1, 1});
    EXPECT_THROW(run_primitive(problem, wrong), std::invalid_argument) << i;
  }
  GatedDeltaProblem heads = problem;
  heads.Hv = 3;
  EXPECT_THROW(run_primitive(heads, in), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::kernels
