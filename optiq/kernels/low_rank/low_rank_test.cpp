#include "optiq/kernels/low_rank/low_rank.h"

#include <functional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/low_rank/low_rank_backward.h"
#include "optiq/kernels/low_rank/low_rank_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

std::size_t size(int a, int b) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

// Values of a float type, and as they are read back.
struct Typed {
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  FloatType type;

  Typed(std::size_t n, FloatType t, std::uint32_t seed)
      : floats(random_floats(n, seed)), type(t) {
    for (float& value : floats) {
      if (type == FloatType::kF32) continue;
      const bool f16 = type == FloatType::kF16;
      halves.push_back(f16 ? float_to_f16(value) : float_to_bf16(value));
      value = f16 ? f16_to_float(halves.back()) : bf16_to_float(halves.back());
    }
  }
  const void* data() const {
    return type == FloatType::kF32 ? static_cast<const void*>(floats.data())
                                   : halves.data();
  }
};

struct Problem {
  int M, K, N, rank;
  FloatType type;
  bool with_gain, with_residual;
  std::vector<float> x, y, residual, bias, gain;
  Typed a, b;
  LowRankFactors factors;
  LowRankArgs args;

  Problem(int m, int k, int n, int r, FloatType t, bool g, bool res)
      : M(m),
        K(k),
        N(n),
        rank(r),
        type(t),
        with_gain(g),
        with_residual(res),
        x(random_floats(size(M, K), 1)),
        y(random_floats(size(M, N), 2)),
        residual(random_floats(size(M, N), 3)),
        bias(random_floats(static_cast<std::size_t>(N), 4)),
        gain(random_floats(static_cast<std::size_t>(N), 5)),
        a(size(rank, K), t, 6),
        b(size(rank, N), t, 7),
        factors{a.data(), b.data(), t, t, rank, 1.5f, g ? gain.data() : nullptr},
        args{x.data(), y.data(), res ? residual.data() : nullptr, bias.data(), nullptr,
             K,        N} {}

  std::vector<float> run(const std::vector<LowRankRows>& rows) const {
    GuardedFloats out(size(M, N));
    LowRankArgs call = args;
    call.out = out.data();
    call.rows = rows;
    low_rank({&call, 1});
    return {out.begin(), out.end()};
  }
};

TEST(LowRank, EveryTargetAgreesWithTheDefinition) {
  for (const FloatType type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16})
    for (const bool gain : {false, true})
      for (const auto& [M, K, N, rank] : {std::array{1, 1, 1, 1},
                                          {1, 64, 100, 8},
                                          {3, 37, 65, 5},
                                          {19, 128, 33, 16},
                                          {8, 15, 7, 3}}) {
        const Problem p(M, K, N, rank, type, gain, /*res=*/gain);
        std::vector<float> expected(size(M, N));
        LowRankArgs call = p.args;
        call.out = expected.data();
        std::vector<float> h(size(M, rank));
        ref::low_rank_inner(call, p.factors, 0, M, h.data());
        ref::low_rank_outer(call, &p.factors, 0, M, h.data(), 0, N);
        // Sums of K and of rank products of normal values, some sigmas wide, and four
        // additions of values of that size.
        const double tolerance =
            kFloatEpsilon * (K + rank + 8) * 40 * std::sqrt(double(K) * rank + 1);
        for_each_simd_target([&] {
          EXPECT_LE(max_abs_difference(p.run({{0, M, &p.factors}}), expected),
                    tolerance)
              << M << " " << K << " " << N << " " << rank;
        });
      }
}

TEST(LowRank, ARowIsTheSameAloneAndAmongOthers) {
  const Problem p(21, 100, 77, 8, FloatType::kF32, false, true);
  const Problem other(21, 100, 77, 3, FloatType::kBF16, true, true);
  std::vector<std::vector<float>> of_targets;
  for_each_simd_target([&] {
    const auto all = p.run({{0, 4, &p.factors},
                            {4, 6, nullptr},
                            {6, 17, &other.factors},
                            {17, 21, &p.factors}});
    const auto alone = p.run({{0, 21, &p.factors}});
    for (int m : {0, 3, 17, 20})
      for (int n = 0; n < p.N; ++n)
        EXPECT_EQ(all[size(m, p.N) + std::size_t(n)],
                  alone[size(m, p.N) + std::size_t(n)]);
    for (int n = 0; n < p.N; ++n)  // nobody's: the sum of y and residual
      EXPECT_EQ(all[size(5, p.N) + std::size_t(n)],
                p.y[size(5, p.N) + std::size_t(n)] +
                    p.residual[size(5, p.N) + std::size_t(n)]);
    of_targets.push_back(alone);
  });
  // The last one is the reference, in double precision.
  for (std::size_t i = 1; i + 1 < of_targets.size(); ++i)
    EXPECT_EQ(of_targets[i], of_targets[0]);
}

mx::array array_of(std::uint32_t seed, int rows, int columns) {
  const auto data = random_floats(size(rows, columns), seed);
  return mx::array(data.data(), {rows, columns});
}

TEST(LowRankPrimitive, AgreesWithPlainOperationsInValueAndGradient) {
  const auto gain = mx::reshape(array_of(8, 1, 24), {24});
  const auto bias = mx::reshape(array_of(9, 1, 24), {24});
  const auto run = [&](const std::vector<mx::array>& in, bool plain) {
    const LowRank one{in[2], in[3], 0.5f}, two{in[4], in[5], 2.0f, in[6]};
    if (!plain)
      return low_rank(in[0], {{in[1],
                               {{3, &one}, {2, nullptr}, {4, &two}, {1, &one}},
                               in[1] * 2,
                               bias}})[0];
    const auto rows = [](const mx::array& x, int b, int e) {
      return mx::slice(x, {b, 0}, {e, x.shape(1)});
    };
    const auto z = [&](int b, int e, const LowRank& f) {
      return f.scale *
             mx::matmul(mx::matmul(rows(in[0], b, e), mx::transpose(f.a)), f.b);
    };
    return in[1] * 2 +
           mx::concatenate({rows(in[1], 0, 3) + z(0, 3, one), rows(in[1], 3, 5),
                            in[6] * (rows(in[1], 5, 9) - bias + z(5, 9, two)) + bias,
                            rows(in[1], 9, 10) + z(9, 10, one)},
                           0);
  };
  const std::vector<mx::array> inputs{array_of(1, 10, 16),
                                      array_of(2, 10, 24),
                                      array_of(3, 4, 16),
                                      array_of(4, 4, 24),
                                      array_of(5, 2, 16),
                                      array_of(6, 2, 24),
                                      gain};
  EXPECT_TRUE(
      mx::allclose(run(inputs, false), run(inputs, true), 1e-4, 1e-4).item<bool>());
  const auto loss = [&](bool plain) {
    return [&run, plain](const std::vector<mx::array>& in) {
      return mx::sum(mx::square(run(in, plain)));
    };
  };
  const std::vector<int> all{0, 1, 2, 3, 4, 5, 6};
  const auto ours = mx::grad(loss(false), all)(inputs);
  const auto plain = mx::grad(loss(true), all)(inputs);
  for (std::size_t i = 0; i < all.size(); ++i)
    EXPECT_TRUE(mx::allclose(ours[i], plain[i], 1e-3, 1e-3).item<bool>()) << i;
}

TEST(LowRankBackward, EveryTargetAgreesWithTheDefinition) {
  for (const auto& [M, K, N, rank] : {std::array{1, 1, 1, 1},
                                      {3, 37, 65, 5},
                                      {100, 128, 96, 16},
                                      {50, 300, 33, 40}}) {
    const auto x = random_floats(size(M, K), 1), dy = random_floats(size(M, N), 2);
    const auto a = random_floats(size(rank, K), 3), b = random_floats(size(rank, N), 4);
    struct Out {
      std::vector<float> dx, da, db;
    };
    const auto run = [&] {
      Out out{std::vector<float>(size(M, K)), std::vector<float>(size(rank, K)),
              std::vector<float>(size(rank, N))};
      low_rank_backward({x.data(), dy.data(), a.data(), b.data(), out.dx.data(),
                         out.da.data(), out.db.data(), M, K, N, rank, 0.5f});
      return out;
    };
    force_simd_target(SimdTarget::kScalar);
    const Out expected = run();
    for_each_simd_target([&] {
      const Out out = run();
      // Two sums, one inside of the other.
      const double tolerance =
          kFloatEpsilon * 40 * (K + N + M + rank) * std::sqrt(double(std::max(K, N)));
      EXPECT_LE(max_abs_difference(out.dx, expected.dx), tolerance);
      EXPECT_LE(max_abs_difference(out.da, expected.da), tolerance);
      EXPECT_LE(max_abs_difference(out.db, expected.db), tolerance);
    });
  }
}

// One product with a residual and one without, of one x.
TEST(LowRankBackward, ThePrimitivesGradientIsThatOfPlainOperations) {
  const std::vector<mx::array> in{
      array_of(1, 10, 16), array_of(2, 10, 24), array_of(3, 4, 16), array_of(4, 4, 24),
      array_of(5, 10, 24), array_of(6, 10, 8),  array_of(7, 2, 16), array_of(8, 2, 8)};
  const auto loss = [](const std::vector<mx::array>& y) {
    return mx::sum(mx::square(y[0])) + mx::sum(y[1] * mx::square(y[1]));
  };
  const auto ours = [&](const std::vector<mx::array>& x) {
    const LowRank wide{x[2], x[3], 0.5f}, narrow{x[6], x[7], 1.5f};
    return loss(low_rank(x[0], {{x[1], {{10, &wide}}, x[4]}, {x[5], {{10, &narrow}}}}));
  };
  const auto plain = [&](const std::vector<mx::array>& x) {
    const auto z = [&](std::size_t a, float scale) {
      return scale * mx::matmul(mx::matmul(x[0], mx::transpose(x[a])), x[a + 1]);
    };
    return loss({x[1] + x[4] + z(2, 0.5f), x[5] + z(6, 1.5f)});
  };
  EXPECT_NEAR(ours(in).item<float>() / plain(in).item<float>(), 1, 1e-4);
  const std::vector<int> all{0, 1, 2, 3, 4, 5, 6, 7};
  const auto g = mx::grad(ours, all)(in), p = mx::grad(plain, all)(in);
  for (std::size_t i = 0; i < all.size(); ++i)
    EXPECT_TRUE(mx::allclose(g[i], p[i], 1e-3, 1e-3).item<bool>()) << i;
}

TEST(LowRankPrimitive, RefusesMatricesThatDoNotFit) {
  const LowRank wrong{array_of(1, 4, 15), array_of(2, 4, 24)};
  const auto x = array_of(1, 10, 16), y = array_of(2, 10, 24);
  EXPECT_THROW(low_rank(x, {{y, {{10, &wrong}}}}), std::invalid_argument);
  EXPECT_THROW(low_rank(x, {{y, {{9, nullptr}}}}), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::kernels
