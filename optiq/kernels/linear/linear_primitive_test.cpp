#include "optiq/kernels/linear/linear_primitive.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/kernels/embedding/embedding_primitive.h"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

mx::array random_matrix(int rows, int columns, std::uint32_t seed, float scale = 1) {
  const auto values = random_floats(
      static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns), seed, scale);
  return mx::array(values.data(), {rows, columns});
}

LinearWeight quantized_weight(const mx::array& w, const QuantSpec& spec,
                              mx::Dtype type = mx::float32) {
  const auto parts =
      mx::quantize(mx::astype(w, type), spec.group_size, spec.bits, name(spec.mode));
  LinearWeight weight{parts[0], parts[1], std::nullopt, std::nullopt, spec};
  if (parts.size() > 2) weight.biases = parts[2];
  return weight;
}

mx::array mlx_dequantized(const LinearWeight& w) {
  const auto wide = [](const mx::array& a) {
    return a.dtype() == mx::uint8 ? a : mx::astype(a, mx::float32);
  };
  if (!w.quantized()) return mx::astype(w.weight, mx::float32);
  std::optional<mx::array> biases;
  if (w.biases) biases = wide(*w.biases);
  return mx::dequantize(w.weight, wide(*w.scales), biases, w.spec.group_size,
                        w.spec.bits, name(w.spec.mode), std::nullopt, mx::float32);
}

double largest_difference(const mx::array& a, const mx::array& b) {
  EXPECT_EQ(a.shape(), b.shape());
  return mx::max(mx::abs(a - b)).item<float>();
}

double largest(const mx::array& a) { return mx::max(mx::abs(a)).item<float>(); }

TEST(LinearPrimitive, MultipliesEveryFormatAsItsDequantizedMatrix) {
  constexpr int K = 384, N = 21;
  const mx::array x = random_matrix(6, K, 1), w = random_matrix(N, K, 2, 0.1f);
  for (const QuantSpec& spec : all_specs())
    for (mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
      SCOPED_TRACE(describe(spec));
      const LinearWeight weight = quantized_weight(w, spec, type);
      const mx::array plain = mlx_dequantized(weight);
      // One rounding of scale code + bias against two: an ulp of the largest weight.
      EXPECT_LE(largest_difference(dequantized(weight), plain),
                2 * kFloatEpsilon * largest(plain));
      const mx::array expected = mx::matmul(x, mx::transpose(plain));
      const mx::array exact = linear(x, weight, {Activation::kExact, std::nullopt});
      const mx::array terms = mx::matmul(mx::abs(x), mx::transpose(mx::abs(plain)));
      EXPECT_LE(largest_difference(exact, expected),
                K * kFloatEpsilon * largest(terms));
      // Rounding moves an activation by at most half a step, max|x| / 254.
      const mx::array int8 = linear(x, weight);
      const double step = largest(x) / 254;
      EXPECT_LE(largest_difference(int8, expected),
                1.01 * step * largest(mx::sum(mx::abs(plain), 1)) +
                    K * kFloatEpsilon * largest(terms));
    }
}

TEST(LinearPrimitive, AddsBiasAndResidual) {
  const mx::array x = random_matrix(3, 64, 1), residual = random_matrix(3, 10, 3);
  LinearWeight w{random_matrix(10, 64, 2), {}, {}, mx::array({}), {}};
  for (mx::Dtype type : {mx::float32, mx::bfloat16}) {
    w.bias = mx::astype(mx::flatten(random_matrix(1, 10, 4)), type);
    const mx::array expected = mx::matmul(x, mx::transpose(w.weight)) +
                               mx::astype(*w.bias, mx::float32) + residual;
    EXPECT_TRUE(
        mx::allclose(linear(x, w, {Activation::kInt8, residual}), expected, 1e-4, 1e-4)
            .item<bool>());
  }
}

TEST(LinearPrimitive, AGroupGivesWhatItsMembersGiveAlone) {
  const mx::array x = random_matrix(5, 128, 1);
  const std::vector<LinearWeight> weights = {
      quantized_weight(random_matrix(48, 128, 2), {QuantMode::kAffine, 4, 64}),
      quantized_weight(random_matrix(7, 128, 3), {QuantMode::kAffine, 6, 32}),
      LinearWeight{random_matrix(16, 128, 4), {}, {}, {}, {}},
      quantized_weight(random_matrix(16, 128, 5), {QuantMode::kAffine, 8, 64})};
  for_each_simd_target([&] {
    for (Activation activation : {Activation::kInt8, Activation::kExact}) {
      const auto together = linear_group(x, weights, activation);
      ASSERT_EQ(together.size(), weights.size());
      for (std::size_t i = 0; i < weights.size(); ++i)
        EXPECT_EQ(largest_difference(together[i],
                                     linear(x, weights[i], {activation, std::nullopt})),
                  0);
    }
  });
}

TEST(LinearPrimitive, GluGatesOneProductWithTheOther) {
  const QuantSpec spec{QuantMode::kAffine, 4, 32};
  for (int T : {1, 5, 40}) {
    const mx::array x = random_matrix(T, 96, 1);
    const LinearWeight gate = quantized_weight(random_matrix(40, 96, 2, 0.1f), spec);
    const LinearWeight up = quantized_weight(random_matrix(40, 96, 3, 0.1f), spec);
    for_each_simd_target([&] {
      for (Activation activation : {Activation::kInt8, Activation::kExact}) {
        const mx::array g = linear(x, gate, {activation, std::nullopt});
        const mx::array u = linear(x, up, {activation, std::nullopt});
        const mx::array expected = g * mx::sigmoid(g) * u;
        // exp within 2 ulp, three roundings after it.
        EXPECT_LE(
            largest_difference(glu(x, gate, up, GluGate::kSilu, activation), expected),
            8 * kFloatEpsilon * largest(expected));
      }
    });
  }
}

TEST(LinearPrimitive, HasTheGradientOfTheDequantizedProduct) {
  const QuantSpec spec{QuantMode::kAffine, 4, 32};
  const mx::array x = random_matrix(4, 64, 1), residual = random_matrix(4, 12, 2);
  const mx::array bias = mx::flatten(random_matrix(1, 12, 3));
  const LinearWeight w = quantized_weight(random_matrix(12, 64, 4, 0.1f), spec);
  const mx::array plain = mlx_dequantized(w);
  const auto ours = [&](const std::vector<mx::array>& in) {
    LinearWeight weight = w;
    weight.bias = in[1];
    return mx::sum(mx::square(linear(in[0], weight, {Activation::kExact, in[2]})));
  };
  const auto mlx = [&](const std::vector<mx::array>& in) {
    return mx::sum(mx::square(mx::matmul(in[0], mx::transpose(plain)) + in[1] + in[2]));
  };
  const std::vector<mx::array> inputs{x, bias, residual};
  const auto a = mx::grad(ours, {0, 1, 2})(inputs);
  const auto b = mx::grad(mlx, {0, 1, 2})(inputs);
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>()) << i;
}

TEST(LinearPrimitive, HasTheGradientOfADenseWeight) {
  const mx::array x = random_matrix(4, 64, 1), w = random_matrix(12, 64, 2, 0.1f);
  const auto ours = [&](const std::vector<mx::array>& in) {
    return mx::sum(mx::square(linear(in[0], {in[1], {}, {}, {}, {}})));
  };
  const auto mlx = [&](const std::vector<mx::array>& in) {
    return mx::sum(mx::square(mx::matmul(in[0], mx::transpose(in[1]))));
  };
  const auto a = mx::grad(ours, {0, 1})({x, w}), b = mx::grad(mlx, {0, 1})({x, w});
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(mx::allclose(a[i], b[i], 1e-4, 1e-4).item<bool>()) << i;
}

TEST(LinearPrimitive, HasTheGradientOfGlu) {
  const QuantSpec spec{QuantMode::kAffine, 4, 32};
  const mx::array x = random_matrix(4, 64, 1);
  const LinearWeight gate = quantized_weight(random_matrix(12, 64, 4, 0.1f), spec);
  const LinearWeight up = quantized_weight(random_matrix(12, 64, 5, 0.1f), spec);
  const mx::array g = mlx_dequantized(gate), u = mlx_dequantized(up);
  const auto ours = [&](const std::vector<mx::array>& in) {
    return mx::sum(
        mx::square(glu(in[0], gate, up, GluGate::kSilu, Activation::kExact)));
  };
  const auto mlx = [&](const std::vector<mx::array>& in) {
    const mx::array a = mx::matmul(in[0], mx::transpose(g));
    return mx::sum(
        mx::square(a * mx::sigmoid(a) * mx::matmul(in[0], mx::transpose(u))));
  };
  EXPECT_TRUE(
      mx::allclose(mx::grad(ours, {0})({x})[0], mx::grad(mlx, {0})({x})[0], 1e-4, 1e-4)
          .item<bool>());
}

TEST(LinearPrimitive, RefusesShapesThatDoNotFit) {
  const mx::array x = random_matrix(4, 64, 1);
  EXPECT_THROW(linear(x, {random_matrix(12, 32, 2), {}, {}, {}, {}}),
               std::invalid_argument);
  LinearWeight w =
      quantized_weight(random_matrix(12, 64, 2), {QuantMode::kAffine, 4, 32});
  w.scales = random_matrix(12, 1, 3);
  EXPECT_THROW(linear(x, w), std::invalid_argument);
}

TEST(EmbeddingPrimitive, GivesTheDequantizedRows) {
  const mx::array table = random_matrix(9, 384, 1);
  const mx::array ids = mx::array({3, 0, 8, 3, 5}, mx::int32);
  for (const QuantSpec& spec : all_specs())
    for_each_simd_target([&] {
      SCOPED_TRACE(describe(spec));
      const LinearWeight w = quantized_weight(table, spec, mx::bfloat16);
      EXPECT_EQ(largest_difference(embedding(ids, w), mx::take(dequantized(w), ids, 0)),
                0);
    });
  for (mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    const LinearWeight w{mx::astype(table, type), {}, {}, {}, {}};
    EXPECT_EQ(largest_difference(embedding(ids, w),
                                 mx::take(mx::astype(w.weight, mx::float32), ids, 0)),
              0);
  }
}

}  // namespace
}  // namespace optiq::kernels
