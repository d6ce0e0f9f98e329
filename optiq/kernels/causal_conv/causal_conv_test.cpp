#include "optiq/kernels/causal_conv/causal_conv.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/causal_conv/causal_conv_primitive.h"
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

struct Problem {
  static constexpr int kGap = 5;  // values between rows of x

  int channels, kernel, T = 0;
  std::vector<int> tokens;
  GuardedFloats x, weight, tails, y;

  Problem(int channels, int kernel, std::vector<int> segment_tokens)
      : channels(channels), kernel(kernel), tokens(std::move(segment_tokens)) {
    for (int n : tokens) T += n;
    const auto count = [](int a, int b) { return static_cast<std::size_t>(a * b); };
    x = guarded(random_floats(count(T, channels + kGap), 1));
    if (T > 0) x = GuardedFloats(x.begin(), x.end() - kGap);
    weight = guarded(random_floats(count(channels, kernel), 2));
    tails = guarded(random_floats(tokens.size() * tail_size(), 3));
    y.resize(count(T, channels));
  }
  std::size_t tail_size() const {
    return static_cast<std::size_t>((kernel - 1) * channels);
  }

  void run() { run_into(tails); }
  void run_into(GuardedFloats& out) {
    std::vector<CausalConvSegment> segments;
    int row = 0;
    for (std::size_t i = 0; i < tokens.size(); row += tokens[i++])
      segments.push_back({row, tokens[i], tails.data() + i * tail_size(),
                          out.data() + i * tail_size()});
    call(segments);
  }
  void run_rows(int begin, int n) { call({{begin, n, tails.data(), tails.data()}}); }

 private:
  void call(const std::vector<CausalConvSegment>& segments) {
    CausalConvArgs args{};
    args.x = x.data();
    args.x_stride = channels + kGap;
    args.weight = weight.data();
    args.y = y.data();
    args.segments = segments.data();
    args.n_segments = static_cast<int>(segments.size());
    args.channels = channels;
    args.kernel = kernel;
    causal_conv_silu(args);
  }
};

TEST(CausalConv, EveryTargetAgreesWithTheReference) {
  for (int channels : {1, 7, 16, 130, 300})
    for (int kernel : {1, 2, 3, 4, 5})
      for (const std::vector<int>& tokens :
           {std::vector<int>{1}, {2}, {3}, {0}, {17}, {64}, {1, 0, 9, 2}}) {
        SCOPED_TRACE(::testing::Message() << channels << " channels, kernel " << kernel
                                          << ", " << tokens[0] << " tokens");
        Problem expected(channels, kernel, tokens);
        const Problem problem = expected;
        force_simd_target(SimdTarget::kScalar);
        expected.run();
        for_each_simd_target([&] {
          Problem run = problem;
          run.run();
          // A sum of kernel products below 4 * 4 errs by kernel 16 eps; silu has a
          // slope of at most 1.1 and few roundings of its own.
          EXPECT_LE(max_abs_difference(run.y, expected.y),
                    (kernel + 4) * 16 * kFloatEpsilon);
          EXPECT_EQ(run.tails, expected.tails);
        });
      }
}

TEST(CausalConv, StepByStepEqualsOneCallBitForBit) {
  for_each_simd_target([] {
    Problem whole(37, 4, {9}), steps = whole, pairs = whole;
    whole.run();
    for (int t = 0; t < 9; ++t) steps.run_rows(t, 1);
    pairs.run_rows(0, 2);
    pairs.run_rows(2, 5);
    pairs.run_rows(7, 2);
    EXPECT_EQ(whole.y, steps.y);
    EXPECT_EQ(whole.tails, steps.tails);
    EXPECT_EQ(whole.y, pairs.y);
    EXPECT_EQ(whole.tails, pairs.tails);
  });
}

TEST(CausalConv, WritesTheNewTailApartFromTheOldOne) {
  for_each_simd_target([] {
    Problem in_place(20, 4, {1, 0, 2, 8}), apart = in_place;
    const GuardedFloats before = apart.tails;
    in_place.run();
    GuardedFloats after(before.size());
    apart.run_into(after);
    EXPECT_EQ(apart.tails, before);
    EXPECT_EQ(after, in_place.tails);
    EXPECT_EQ(apart.y, in_place.y);
  });
}

TEST(CausalConv, KeepsNotANumberInItsSequenceAndChannel) {
  for_each_simd_target([] {
    Problem clean(20, 4, {5, 5}), dirty = clean;
    clean.run();
    dirty.x[static_cast<std::size_t>(4 * (20 + Problem::kGap) + 6)] = std::nanf("");
    dirty.run();
    for (std::size_t i = 0; i < clean.y.size(); ++i)
      if (i == 4 * 20 + 6)
        EXPECT_TRUE(std::isnan(dirty.y[i]));
      else
        EXPECT_EQ(dirty.y[i], clean.y[i]) << i;
  });
}

TEST(CausalConv, LargeInputsGiveZeroOrThemselves) {
  for_each_simd_target([] {
    Problem problem(16, 1, {2});
    std::fill(problem.weight.begin(), problem.weight.end(), 1.0f);
    for (std::size_t i = 0; i < problem.x.size(); ++i)
      problem.x[i] = i % 2 ? 1e30f : -1e30f;
    problem.run();
    for (std::size_t i = 0; i < 16; ++i)
      EXPECT_NEAR(problem.y[i], i % 2 ? 1e30f : 0.0f, 1e-7) << i;
  });
}

// x (a view with gaps between rows), weight, the tails.
std::vector<mx::array> arrays_of(const Problem& p) {
  const int stride = p.channels + Problem::kGap;
  std::vector<float> x(p.x.begin(), p.x.end());
  x.resize(static_cast<std::size_t>(p.T * stride));
  std::vector<mx::array> arrays{
      mx::slice(mx::array(x.data(), {p.T, stride}), {0, 0}, {p.T, p.channels}),
      mx::array(p.weight.data(), {p.channels, p.kernel})};
  for (std::size_t i = 0; i < p.tokens.size(); ++i)
    arrays.push_back(
        mx::array(p.tails.data() + i * p.tail_size(), {p.kernel - 1, p.channels}));
  return arrays;
}

std::vector<mx::array> run_primitive(const Problem& p,
                                     const std::vector<mx::array>& in) {
  std::vector<Segment> segments;
  for (int tokens : p.tokens) segments.push_back({tokens, 0});
  auto [y, tails] =
      causal_conv_silu(in[0], in[1], segments, {in.begin() + 2, in.end()});
  tails.insert(tails.begin(), y);
  return tails;
}

TEST(CausalConvPrimitive, AgreesWithPlainMlxOperationsInValueAndGradient) {
  for (const std::vector<int>& tokens : {std::vector<int>{1}, {2, 0, 7}, {0}}) {
    const Problem problem(24, 4, tokens);
    const auto in = arrays_of(problem);
    const auto ours = run_primitive(problem, in);
    const Fallback plain =
        dynamic_cast<const FusedPrimitive&>(ours[0].primitive()).fallback();
    const auto expected = plain(in);
    ASSERT_EQ(ours.size(), expected.size());
    for (std::size_t i = 0; i < ours.size(); ++i)
      EXPECT_TRUE(mx::allclose(ours[i], expected[i], 1e-5, 1e-5).item<bool>()) << i;
    const auto sum = [](const std::vector<mx::array>& outputs) {
      mx::array total(0.0f);
      for (const mx::array& out : outputs) total = total + mx::sum(mx::square(out));
      return total;
    };
    const auto a = mx::grad(
        [&](const std::vector<mx::array>& x) { return sum(run_primitive(problem, x)); },
        {0, 1, 2})(in);
    const auto b = mx::grad(
        [&](const std::vector<mx::array>& x) { return sum(plain(x)); }, {0, 1, 2})(in);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>()) << i;
  }
}

TEST(CausalConvPrimitive, LeavesATailThatOthersHoldAsItWas) {
  const Problem problem(24, 4, {1});
  const auto in = arrays_of(problem);
  mx::eval(in);
  mx::eval(run_primitive(problem, in));
  EXPECT_TRUE(
      mx::array_equal(in[2], mx::array(problem.tails.data(), {3, 24})).item<bool>());
}

TEST(CausalConvPrimitive, RefusesShapesThatDoNotFit) {
  const Problem problem(8, 4, {3});
  const auto in = arrays_of(problem);
  for (std::size_t i = 0; i < in.size(); ++i) {
    auto wrong = in;
    wrong[i] = mx::zeros({5, 5});
    EXPECT_THROW(run_primitive(problem, wrong), std::invalid_argument) << i;
  }
}

}  // namespace
}  // namespace optiq::kernels
