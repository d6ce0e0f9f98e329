#include "optiq/kernels/linear_backward/linear_backward.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

namespace mx = mlx::core;
using namespace optiq::testing;

std::size_t size(int a, int b) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

MatrixView dense(const std::vector<float>& w, int N, int K) {
  MatrixView view;
  view.N = N;
  view.K = K;
  view.weight = w.data();
  return view;
}

TEST(LinearBackward, EveryTargetAgreesWithDoubles) {
  for (const auto& [M, N1, N2, K] : {std::array{1, 1, 1, 1},
                                     {3, 20, 300, 33},
                                     {100, 64, 7, 160},
                                     {13, 520, 1, 96}}) {
    const auto w1 = random_floats(size(N1, K), 1), w2 = random_floats(size(N2, K), 2);
    const auto d1 = guarded(random_floats(size(M, N1), 3));
    const auto d2 = guarded(random_floats(size(M, N2), 4));
    std::vector<float> expected(size(M, K));
    for (int m = 0; m < M; ++m)
      for (int k = 0; k < K; ++k) {
        double sum = 0;
        for (int n = 0; n < N1; ++n)
          sum += double(d1[size(m, N1) + std::size_t(n)]) *
                 w1[size(n, K) + std::size_t(k)];
        for (int n = 0; n < N2; ++n)
          sum += double(d2[size(m, N2) + std::size_t(n)]) *
                 w2[size(n, K) + std::size_t(k)];
        expected[size(m, K) + std::size_t(k)] = float(sum);
      }
    std::vector<std::vector<float>> all;
    for_each_simd_target([&] {
      GuardedFloats dx(size(M, K));
      const BackwardProduct products[] = {{dense(w1, N1, K), d1.data()},
                                          {dense(w2, N2, K), d2.data()}};
      linear_backward(products, 2, M, K, dx.data());
      // N terms of normal values: sums of some sqrt(N) with N roundings.
      EXPECT_LE(max_abs_difference(dx, expected),
                (N1 + N2) * kFloatEpsilon * 4 * std::sqrt(double(N1 + N2)));
      all.emplace_back(dx.begin(), dx.end());
    });
    for (std::size_t i = 1; i + 1 < all.size(); ++i) EXPECT_EQ(all[i], all[0]);
  }
}

// A quantized matrix, and what it is as floats.
LinearWeight quantized(int N, int K, int bits, int group_size) {
  const auto data = random_floats(size(N, K), 5);
  const auto q = mx::quantize(mx::array(data.data(), {N, K}), group_size, bits);
  LinearWeight w{q[0], q[1], q[2], std::nullopt, {}};
  w.spec = {QuantMode::kAffine, bits, group_size};
  mx::eval(w.weight, *w.scales, *w.biases);
  return w;
}

TEST(LinearBackward, GradientsOfThePrimitivesAreThoseOfPlainOperations) {
  const LinearWeight a = quantized(96, 128, 4, 64), b = quantized(40, 128, 8, 32);
  const auto data = random_floats(size(9, 128), 6);
  const mx::array x(data.data(), {9, 128});
  const auto check = [&](auto ours, auto plain) {
    const auto squared = [](auto f) {
      return
          [f](const std::vector<mx::array>& in) { return mx::sum(mx::square(f(in))); };
    };
    const std::vector<mx::array> g = mx::grad(squared(ours))({x});
    const std::vector<mx::array> p = mx::grad(squared(plain))({x});
    EXPECT_TRUE(mx::allclose(g[0], p[0], 1e-3, 2e-2).item<bool>());
  };
  const auto product = [](const mx::array& v, const LinearWeight& w) {
    return mx::matmul(v, mx::transpose(dequantized(w)));
  };
  const LinearOptions exact{Activation::kExact, std::nullopt};
  check([&](const auto& in) { return linear(in[0], a, exact); },
        [&](const auto& in) { return product(in[0], a); });
  check(
      [&](const auto& in) {
        const LinearWeight both[] = {a, b};
        const auto y = linear_group(in[0], both, Activation::kExact);
        return mx::concatenate({y[0], y[1] * 2}, 1);
      },
      [&](const auto& in) {
        return mx::concatenate({product(in[0], a), product(in[0], b) * 2}, 1);
      });
  check(
      [&](const auto& in) {
        return glu(in[0], a, a, GluGate::kSilu, Activation::kExact);
      },
      [&](const auto& in) {
        const auto y = product(in[0], a);
        return y * mx::sigmoid(y) * y;
      });
  check(
      [&](const auto& in) {
        return linear(mx::slice(in[0], {0, 0}, {9, 128}), a,
                      {Activation::kExact, mx::slice(in[0], {0, 0}, {9, 96})});
      },
      [&](const auto& in) {
        return product(in[0], a) + mx::slice(in[0], {0, 0}, {9, 96});
      });
}

// Affine codes whose scales and biases are variables, one product alone, two of one
// input, and the two of a gated MLP.
TEST(LinearPrimitive, ItsGradientsByScalesAreThoseOfPlainOperations) {
  constexpr int T = 9, K = 128, N = 96;
  const auto data = random_floats(size(T, K), 1),
             weights = random_floats(size(N, K), 2);
  const mx::array x(data.data(), {T, K}), w(weights.data(), {N, K});
  const auto parts = mx::quantize(w * 0.1f, 64, 4);
  const auto weight = [&](const std::vector<mx::array>& in) {
    return LinearWeight{
        parts[0], in[1], in[2], std::nullopt, {QuantMode::kAffine, 4, 64}};
  };
  // W = scale code + bias.
  const mx::array codes =
      mx::round((mx::dequantize(parts[0], parts[1], parts[2], 64, 4) -
                 mx::repeat(parts[2], 64, 1)) /
                mx::repeat(parts[1], 64, 1));
  const auto matrix = [&](const std::vector<mx::array>& in) {
    return mx::transpose(codes * mx::repeat(in[1], 64, 1) + mx::repeat(in[2], 64, 1));
  };
  using Function = std::function<mx::array(const std::vector<mx::array>&)>;
  const auto check = [&](const Function& ours, const Function& plain) {
    const std::vector<mx::array> in{x, parts[1], parts[2]};
    const auto loss = [](const Function& f) {
      return [f](const std::vector<mx::array>& v) { return mx::sum(mx::square(f(v))); };
    };
    const auto a = mx::grad(loss(ours), {0, 1, 2})(in);
    const auto b = mx::grad(loss(plain), {0, 1, 2})(in);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-3, 1e-3).item<bool>()) << i;
  };
  const LinearOptions exact{Activation::kExact, std::nullopt};
  check([&](const auto& in) { return linear(in[0], weight(in), exact); },
        [&](const auto& in) { return mx::matmul(in[0], matrix(in)); });
  check(
      [&](const auto& in) {
        const LinearWeight both[] = {weight(in), weight({in[0], parts[1], parts[2]})};
        const auto y = linear_group(in[0], both, Activation::kExact);
        return y[0] * y[1];
      },
      [&](const auto& in) {
        return mx::matmul(in[0], matrix(in)) *
               mx::matmul(in[0], matrix({in[0], parts[1], parts[2]}));
      });
  check(
      [&](const auto& in) {
        return glu(in[0], weight(in), weight(in), GluGate::kGeluTanh,
                   Activation::kExact);
      },
      [&](const auto& in) {
        const mx::array y = mx::matmul(in[0], matrix(in));
        return plain_gate(y, GluGate::kGeluTanh) * y;
      });
}

}  // namespace
}  // namespace optiq::kernels
