#include "optiq/kernels/rope/rope.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/rope/rope_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

struct Case {
  int rows, q_heads, k_heads, dim, frequencies;
  bool norm;
};

GuardedFloats inverse_frequencies(int n, double theta) {
  GuardedFloats f(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i)
    f[static_cast<std::size_t>(i)] =
        static_cast<float>(std::pow(theta, -static_cast<double>(i) / n));
  return f;
}

TEST(Rope, EveryTargetAgreesWithTheReference) {
  for (const Case& c : {Case{1, 1, 1, 2, 1, false},
                        {3, 2, 1, 40, 20, true},
                        {2, 4, 2, 64, 32, false},
                        {5, 3, 1, 80, 16, true},
                        {7, 2, 2, 100, 33, true},
                        {19, 16, 8, 128, 64, true},
                        {4, 8, 2, 256, 32, true},
                        {2, 2, 1, 64, 0, true}}) {
    SCOPED_TRACE(::testing::Message() << "dim " << c.dim << " F " << c.frequencies);
    const auto count = [&](int heads) {
      return static_cast<std::size_t>(c.rows) * static_cast<std::size_t>(heads * c.dim);
    };
    // Queries and keys lie in one array, as a fused projection leaves them.
    const int width = (c.q_heads + c.k_heads) * c.dim;
    const auto x = guarded(random_floats(count(c.q_heads + c.k_heads), 1));
    const auto wq = guarded(random_floats(static_cast<std::size_t>(c.dim), 2));
    const auto wk = guarded(random_floats(static_cast<std::size_t>(c.dim), 3));
    const auto frequency = inverse_frequencies(c.frequencies, 1e4);
    Guarded<std::int32_t> positions(static_cast<std::size_t>(c.rows));
    for (int i = 0; i < c.rows; ++i)
      positions[static_cast<std::size_t>(i)] = i * i * 7919 % 1000000;
    GuardedFloats q(count(c.q_heads)), k(count(c.k_heads));
    RopeArgs args{};
    args.q = {x.data(), width,    c.dim, c.norm ? wq.data() : nullptr,
              q.data(), c.q_heads};
    args.k = {x.data() + c.q_heads * c.dim, width,    c.dim,
              c.norm ? wk.data() : nullptr, k.data(), c.k_heads};
    args.positions = positions.data();
    args.inverse_frequency = frequency.data();
    args.rows = c.rows;
    args.head_dim = c.dim;
    args.n_frequencies = c.frequencies;
    args.eps = 1e-6f;
    args.scale = 1.25f;
    ref::rope_rows(args, 0, c.rows);
    const auto expected_q = q, expected_k = k;
    double largest = 0;
    for (float value : q) largest = std::max(largest, std::abs(double(value)));
    for (float value : k) largest = std::max(largest, std::abs(double(value)));
    // The norm errs by (D / 2 + 5) eps, as in rms_norm; cosine and sine by 2 ulp each,
    // and two products of up to `largest` are added.
    const double tolerance = (c.norm ? c.dim / 2.0 + 5 : 0) + 8;
    for_each_simd_target([&] {
      std::ranges::fill(q, 0.0f);
      std::ranges::fill(k, 0.0f);
      rope(args);
      EXPECT_LE(max_abs_difference(q, expected_q), tolerance * kFloatEpsilon * largest);
      EXPECT_LE(max_abs_difference(k, expected_k), tolerance * kFloatEpsilon * largest);
    });
  }
}

TEST(Rope, TurnsRightAtAnyPosition) {
  // The pair (1, 0) becomes (cos, sin) of the angle.
  const std::vector<float> frequency{1.0f, 0.7f};
  const std::vector<float> x{1, 1, 0, 0};
  for (std::int32_t position :
       {0, 1, 11, 355, 103993, 999983, 16777217, 573204000, 2147483647, -17}) {
    SCOPED_TRACE(position);
    for_each_simd_target([&] {
      std::vector<float> q(4), k(4);
      RopeArgs args{};
      args.q = {x.data(), 4, 4, nullptr, q.data(), 1};
      args.k = {x.data(), 4, 4, nullptr, k.data(), 1};
      args.positions = &position;
      args.inverse_frequency = frequency.data();
      args.rows = 1;
      args.head_dim = 4;
      args.n_frequencies = 2;
      args.scale = 1;
      rope(args);
      for (std::size_t i = 0; i < 2; ++i) {
        const double angle = static_cast<float>(position) * frequency[i];
        EXPECT_NEAR(q[i], std::cos(angle), 2 * kFloatEpsilon);
        EXPECT_NEAR(q[i + 2], std::sin(angle), 2 * kFloatEpsilon);
      }
    });
  }
}

TEST(Rope, LongRowsTurnByFrequenciesOfTheirOwn) {
  const auto x = random_floats(3 * 8, 1);
  const std::vector<float> frequency{1.0f, 0.7f, 0.3f, 0.1f},
      slower{0.5f, 0.2f, 0.1f, 0};
  const std::vector<std::int32_t> positions{3, 70, 5}, long_rows{0, 1, 0};
  const auto turned = [&](const std::vector<float>& by, const std::int32_t* rows) {
    std::vector<float> q(x.size()), k(x.size());
    RopeArgs args{};
    args.q = {x.data(), 8, 8, nullptr, q.data(), 1};
    args.k = {x.data(), 8, 8, nullptr, k.data(), 1};
    args.positions = positions.data();
    args.inverse_frequency = by.data();
    args.long_inverse_frequency = slower.data();
    args.long_rows = rows;
    args.rows = 3;
    args.head_dim = 8;
    args.n_frequencies = 4;
    args.scale = 1;
    rope(args);
    return q;
  };
  for_each_simd_target([&] {
    const auto mixed = turned(frequency, long_rows.data());
    const auto fast = turned(frequency, nullptr), slow = turned(slower, nullptr);
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_EQ(mixed[i], i / 8 == 1 ? slow[i] : fast[i]) << i;
  });
}

TEST(Rope, KeepsNotANumberInItsHead) {
  for_each_simd_target([] {
    std::vector<float> x(4 * 32, 1.0f), q(4 * 32), k(4 * 32), norm(32, 1.0f);
    x[40] = std::nanf("");
    const auto frequency = inverse_frequencies(16, 1e4);
    const std::vector<std::int32_t> positions{5, 6};
    RopeArgs args{};
    args.q = {x.data(), 64, 32, norm.data(), q.data(), 2};
    args.k = {x.data(), 64, 32, norm.data(), k.data(), 2};
    args.positions = positions.data();
    args.inverse_frequency = frequency.data();
    args.rows = 2;
    args.head_dim = 32;
    args.n_frequencies = 16;
    args.eps = 1e-6f;
    args.scale = 1;
    rope(args);
    for (std::size_t i = 0; i < q.size(); ++i)
      EXPECT_EQ(std::isnan(q[i]), i / 32 == 1) << i;
  });
}

// q and k as views into one [T, heads, D] array.
struct Views {
  std::vector<float> data = random_floats(6 * 5 * 24, 4);
  mx::array x{data.data(), {6, 5, 24}};
  mx::array q = mx::slice(x, {0, 0, 0}, {6, 3, 24});
  mx::array k = mx::slice(x, {0, 3, 0}, {6, 5, 24});
  mx::array positions = mx::array({3, 4, 5, 0, 1, 100});
  mx::array frequency =
      mx::array({1.0f, 0.5f, 0.25f, 0.125f, 0.1f, 0.05f, 0.01f, 0.001f});
  mx::array weight{random_floats(24, 5).data(), {24}};
};

TEST(RopePrimitive, AgreesWithPlainMlxOperationsInValueAndGradient) {
  const Views in;
  RopeOptions options;
  options.scale = 0.5f;
  const auto plain = [&](const mx::array& x, const mx::array& weight) {
    const mx::array n =
        x * mx::rsqrt(mx::mean(mx::square(x), -1, true) + 1e-6f) * weight;
    const mx::array angle =
        mx::reshape(mx::astype(in.positions, mx::float32), {6, 1, 1}) * in.frequency;
    const auto parts = mx::split(n, mx::Shape{8, 16}, -1);
    return mx::concatenate(
        {0.5f * (parts[0] * mx::cos(angle) - parts[1] * mx::sin(angle)),
         0.5f * (parts[1] * mx::cos(angle) + parts[0] * mx::sin(angle)), parts[2]},
        -1);
  };
  const auto ours = [&](const std::vector<mx::array>& a) {
    RopeOptions o = options;
    o.q_norm = a[2];
    o.k_norm = a[2];
    const auto [q, k] = rope(a[0], a[1], in.positions, in.frequency, o);
    return mx::sum(mx::square(mx::sum(q, {1}))) + mx::sum(mx::sin(k));
  };
  const auto reference = [&](const std::vector<mx::array>& a) {
    return mx::sum(mx::square(mx::sum(plain(a[0], a[2]), {1}))) +
           mx::sum(mx::sin(plain(a[1], a[2])));
  };
  const std::vector<mx::array> inputs{in.q, in.k, in.weight};
  EXPECT_TRUE(mx::allclose(ours(inputs), reference(inputs), 1e-5).item<bool>());
  const auto a = mx::grad(ours, {0, 1, 2})(inputs);
  const auto b = mx::grad(reference, {0, 1, 2})(inputs);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>());
}

TEST(RopePrimitive, RefusesShapesThatDoNotGoTogether) {
  const Views in;
  EXPECT_THROW(rope(in.q, in.k, mx::array({1, 2}), in.frequency),
               std::invalid_argument);
  EXPECT_THROW(rope(in.q, in.k, in.positions, mx::zeros({13})), std::invalid_argument);
  RopeOptions options;
  options.q_norm = mx::zeros({23});
  EXPECT_THROW(rope(in.q, in.k, in.positions, in.frequency, options),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::kernels
