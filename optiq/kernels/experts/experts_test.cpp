#include "optiq/kernels/experts/experts.h"

#include <numeric>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/experts/experts_primitive.h"
#include "optiq/kernels/experts/route.h"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

constexpr int kExperts = 5, kActive = 3;

struct Layer {
  TestMatrix gate, up, down;
};

Layer random_layer(int K, int N, const std::optional<QuantSpec>& spec) {
  const auto make = [&](int rows, int columns, std::uint32_t seed) {
    return spec ? random_coded(rows, columns, *spec, FloatType::kBF16, seed)
                : random_dense(rows, columns, FloatType::kBF16, seed);
  };
  return {make(kExperts * N, K, 1), make(kExperts * N, K, 2), make(kExperts * K, N, 3)};
}

// Token t goes to experts t, t + 2, t + 4; the last expert gets all of a long batch.
std::vector<std::int32_t> ids_of(int T) {
  std::vector<std::int32_t> ids;
  for (int t = 0; t < T; ++t)
    for (int i = 0; i < kActive; ++i)
      ids.push_back(t > 9 ? (kExperts - 1 - i) : (t + 2 * i) % kExperts);
  return ids;
}

struct Call {
  std::vector<float> x, weights, residual;
  std::vector<std::int32_t> ids;
  GuardedFloats y;
  ExpertsArgs args;

  Call(const Layer& layer, int T, GluGate f, Activation activation) {
    const int K = layer.gate.view.K;
    const auto n = static_cast<std::size_t>(T) * static_cast<std::size_t>(K);
    x = random_floats(n, 4);
    residual = random_floats(n, 5);
    weights = random_floats(static_cast<std::size_t>(T) * kActive, 6);
    ids = ids_of(T);
    y.assign(n, NAN);
    args.x = x.data();
    args.ids = ids.data();
    args.weights = weights.data();
    args.residual = residual.data();
    args.y = y.data();
    args.T = T;
    args.n_active = kActive;
    args.n_experts = kExperts;
    args.gate = layer.gate.view;
    args.up = layer.up.view;
    args.down = layer.down.view;
    args.f = f;
    args.activation = activation;
  }
};

// One token by itself, with the kernels of one expert.
std::vector<float> token_alone(const ExpertsArgs& a, int t) {
  const int K = a.gate.K, N = a.down.K;
  std::vector<float> h(static_cast<std::size_t>(N)), z(static_cast<std::size_t>(K));
  std::vector<float> y(a.residual + t * K, a.residual + (t + 1) * K);
  for (int i = 0; i < a.n_active; ++i) {
    const std::int64_t e = a.ids[t * a.n_active + i];
    Product gate, up, down;
    gate.w = a.gate.rows(e * N, N);
    up.w = a.up.rows(e * N, N);
    down.w = a.down.rows(e * K, K);
    down.y = z.data();
    glu(a.f, a.x + t * K, 1, K, gate, up, h.data(), a.activation);
    linear(h.data(), 1, N, &down, 1, a.activation);
    for (std::size_t k = 0; k < z.size(); ++k)
      y[k] += a.weights[t * a.n_active + i] * z[k];
  }
  return y;
}

TEST(Experts, ATokenGetsTheBitsThatItsExpertsGiveItAlone) {
  std::vector<std::optional<QuantSpec>> specs{std::nullopt};
  for (const QuantSpec& spec : all_specs()) specs.push_back(spec);
  for (const auto& spec : specs) {
    SCOPED_TRACE(spec ? describe(*spec) : "dense");
    const Layer layer = random_layer(128, 256, spec);
    for (const int T : {1, 4, 37})
      for (const Activation activation : {Activation::kInt8, Activation::kExact}) {
        Call call(layer, T, GluGate::kSilu, activation);
        for_each_simd_target([&] {
          std::ranges::fill(call.y, NAN);
          experts(call.args);
          // The definition in double precision rounds its halves elsewhere.
          if (simd_target() == SimdTarget::kScalar) return;
          for (int t = 0; t < T; ++t) {
            const auto alone = token_alone(call.args, t);
            for (std::size_t k = 0; k < alone.size(); ++k)
              ASSERT_EQ(call.y[static_cast<std::size_t>(t) * alone.size() + k],
                        alone[k])
                  << "token " << t << " of " << T;
          }
        });
      }
  }
}

TEST(Experts, EveryTargetAgreesWithTheDefinition) {
  const Layer layer = random_layer(128, 192, QuantSpec{QuantMode::kAffine, 4, 64});
  for (const GluGate f : {GluGate::kSilu, GluGate::kGeluTanh}) {
    Call expected(layer, 11, f, Activation::kExact), call = expected;
    expected.args.y = expected.y.data();
    ref::experts(expected.args);
    call.args.y = call.y.data();
    double largest = 0;
    for (const float value : expected.y)
      largest = std::max(largest, std::abs(double{value}));
    for_each_simd_target([&] {
      experts(call.args);
      EXPECT_LE(max_abs_difference(call.y, expected.y), 300 * kFloatEpsilon * largest);
    });
  }
}

TEST(Experts, WritesOverItsResidual) {
  const Layer layer = random_layer(64, 64, QuantSpec{QuantMode::kAffine, 4, 32});
  Call call(layer, 6, GluGate::kSilu, Activation::kInt8);
  for_each_simd_target([&] {
    experts(call.args);
    ExpertsArgs in_place = call.args;
    std::vector<float> y = call.residual;
    in_place.residual = in_place.y = y.data();
    experts(in_place);
    EXPECT_EQ(max_abs_difference(y, call.y), 0);
  });
}

TEST(Route, TakesTheLargestAndOfEqualsTheFirst) {
  const std::vector<float> logits{1, 3, 3, 0, 2, 5, 5, 5};
  std::vector<std::int32_t> ids(4);
  std::vector<float> weights(4);
  RouteArgs args{logits.data(), nullptr, ids.data(), weights.data(), 2, 4, 2, true};
  route(args);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 2, 1, 2}));
  for (const float w : weights) EXPECT_FLOAT_EQ(w, 0.5f);
  const std::vector<float> scale{1, 2, 4, 8};
  args.expert_scale = scale.data();
  args.normalize = false;
  route(args);
  const double sum = std::exp(1.0 - 3) + 2 + std::exp(-3.0);
  EXPECT_NEAR(weights[0], 2 / sum, 1e-6);
  EXPECT_NEAR(weights[1], 4 / sum, 1e-6);
}

TEST(Route, NotANumberGoesOnButNamesExperts) {
  const std::vector<float> logits{1, NAN, 3, 0};
  std::vector<std::int32_t> ids(2, -1);
  std::vector<float> weights(2);
  route({logits.data(), nullptr, ids.data(), weights.data(), 1, 4, 2, true});
  EXPECT_EQ(ids, (std::vector<std::int32_t>{2, 0}));
  EXPECT_TRUE(std::isnan(weights[0]));
}

mx::array array_of(const std::vector<float>& values, const mx::Shape& shape) {
  return mx::array(values.data(), shape);
}

TEST(ExpertsPrimitive, ItsValueAndGradientAreThoseOfDenseExperts) {
  constexpr int E = 4, K = 32, N = 64, T = 6;
  const auto matrix = [](int rows, int columns, std::uint32_t seed) {
    return array_of(random_floats(static_cast<std::size_t>(rows * columns), seed, 0.2f),
                    {rows, columns});
  };
  const ExpertWeights w{{matrix(E * N, K, 1), {}, {}, {}, {}},
                        {matrix(E * N, K, 2), {}, {}, {}, {}},
                        {matrix(E * K, N, 3), {}, {}, {}, {}},
                        E};
  const auto ours = [&](const std::vector<mx::array>& in) {
    const Route r = route(in[1], {2, true, std::nullopt});
    return mx::sum(
        mx::square(experts(in[0], r, w, GluGate::kSilu, Activation::kExact, in[0])));
  };
  // Every token through every expert, those not chosen with weight 0.
  const auto dense = [&](const std::vector<mx::array>& in) {
    const mx::array p = mx::softmax(in[1], std::vector<int>{-1});
    const mx::array second = mx::slice(mx::sort(p, -1), {0, E - 2}, {T, E - 1});
    const mx::array chosen =
        mx::where(mx::greater_equal(p, mx::stop_gradient(second)), p, mx::array(0.0f));
    const mx::array weights = chosen / mx::sum(chosen, -1, true);
    mx::array y = in[0];
    for (int e = 0; e < E; ++e) {
      const auto part = [&](const LinearWeight& m, int rows) {
        return mx::transpose(
            mx::slice(m.weight, {e * rows, 0}, {(e + 1) * rows, m.weight.shape(1)}));
      };
      const mx::array g = mx::matmul(in[0], part(w.gate, N));
      const mx::array h = g * mx::sigmoid(g) * mx::matmul(in[0], part(w.up, N));
      y = y + mx::matmul(h, part(w.down, K)) * mx::slice(weights, {0, e}, {T, e + 1});
    }
    return mx::sum(mx::square(y));
  };
  const std::vector<mx::array> in{matrix(T, K, 7), matrix(T, E, 8)};
  EXPECT_TRUE(mx::allclose(ours(in), dense(in), 1e-5).item<bool>());
  const auto a = mx::grad(ours, {0, 1})(in), b = mx::grad(dense, {0, 1})(in);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-3, 1e-4).item<bool>()) << i;
}

}  // namespace
}  // namespace optiq::kernels
