// What surrounds products of many rows, on cuda_model.h.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "optiq/kernels/cuda_model_launch.h"
#include "optiq/kernels/linear/linear.h"
#include "optiq/kernels/linear/many_rows_cuda.cu"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

std::vector<std::uint16_t> narrowed(const std::vector<float>& values) {
  std::vector<std::uint16_t> all;
  for (const float v : values) all.push_back(float_to_bf16(v));
  return all;
}

TEST(ManyRowsOnModel, DequantizesEveryFormat) {
  std::uint32_t seed = 0;
  for (const QuantSpec& spec : all_specs()) {
    if (spec.mode != QuantMode::kAffine) continue;
    for (const auto type : {FloatType::kF32, FloatType::kF16, FloatType::kBF16}) {
      const int N = 11, K = 2176;  // neither whole blocks of rows nor of columns
      const TestMatrix w = random_coded(N, K, spec, type, ++seed);
      std::vector<uint4> to(std::size_t(N) * K / 8);
      cuda::dequantize(w.view, reinterpret_cast<std::uint16_t*>(to.data()),
                       cuda_model::launch<cuda::DequantizeArgs>);
      const auto* halves = reinterpret_cast<const std::uint16_t*>(to.data());
      for (int n = 0; n < N; ++n)
        for (int k = 0; k < K; ++k) {
          const float expected = ref::weight_at(w.view, n, k);
          ASSERT_NEAR(bf16_to_float(halves[n * K + k]), expected,
                      std::abs(expected) / 256 + 1e-30f)
              << describe(spec) << ' ' << n << ' ' << k;
        }
    }
  }
}

TEST(ManyRowsOnModel, NarrowsAsTheHost) {
  const int rows = 3, K = 514;
  std::vector<float> x = random_floats(std::size_t(rows) * K, 1);
  x[5] = NAN, x[6] = INFINITY, x[7] = 1.00390625f;  // halfway: to the even one
  std::vector<std::uint16_t> to(x.size());
  cuda::NarrowRowsArgs args{x.data(), nullptr, 0, to.data(), rows, K};
  cuda::narrow_rows(args, cuda_model::launch<cuda::NarrowRowsArgs>);
  EXPECT_EQ(to, narrowed(x));

  x = random_floats(x.size(), 2);
  const std::vector<float> weight = random_floats(K, 3);
  args.norm_weight = weight.data();
  args.norm_eps = 1e-5f;
  args.x = x.data();
  cuda::narrow_rows(args, cuda_model::launch<cuda::NarrowRowsArgs>);
  for (int r = 0; r < rows; ++r) {
    double square = 0;
    for (int k = 0; k < K; ++k) square += double(x[r * K + k]) * x[r * K + k];
    for (int k = 0; k < K; ++k) {
      const double y = weight[k] * x[r * K + k] / std::sqrt(square / K + 1e-5);
      EXPECT_NEAR(bf16_to_float(to[r * K + k]), y, std::abs(y) / 250);
    }
  }
}

// Parts of even widths, which go by twos, and of odd ones.
TEST(ManyRowsOnModel, WidensAndAdds) {
  const int rows = 3;
  for (const std::array<int, 3>& widths : {std::array{600, 2, 10}, {5, 520, 1}}) {
    const int width = widths[0] + widths[1] + widths[2];
    const auto y = narrowed(random_floats(std::size_t(rows) * width, 4));
    const auto bias = narrowed(random_floats(widths[1], 5));
    const auto residual = random_floats(std::size_t(rows) * widths[0], 6);
    std::array<std::vector<float>, 3> to;
    std::vector<cuda::WidePart> parts;
    for (int i = 0; i < 3; ++i) {
      to[i].assign(std::size_t(rows) * widths[i], NAN);
      parts.push_back({i == 1 ? bias.data() : nullptr,
                       i == 0 ? residual.data() : nullptr, to[i].data(), widths[i],
                       FloatType::kBF16});
    }
    cuda::widen_rows(y.data(), rows, parts, cuda_model::launch<cuda::WidenArgs>);
    for (int r = 0; r < rows; ++r)
      for (int i = 0, column = 0; i < 3; ++i)
        for (int n = 0; n < widths[i]; ++n, ++column) {
          float expected = bf16_to_float(y[r * width + column]);
          if (i == 1) expected += bf16_to_float(bias[n]);
          if (i == 0) expected += residual[r * widths[0] + n];
          ASSERT_EQ(to[i][r * widths[i] + n], expected) << i << ' ' << n;
        }
  }
}

TEST(ManyRowsOnModel, JoinsHalves) {
  const int rows = 2, N = 516;
  const auto y = narrowed(random_floats(std::size_t(rows) * 2 * N, 7));
  std::vector<std::uint16_t> to(std::size_t(rows) * N);
  cuda::glu_halves(GluGate::kSilu, y.data(), rows, N, to.data(),
                   cuda_model::launch<cuda::GluHalvesArgs>);
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < N; ++n) {
      const float g = bf16_to_float(y[r * 2 * N + n]);
      const float expected =
          g / (1 + std::exp(-g)) * bf16_to_float(y[r * 2 * N + N + n]);
      ASSERT_NEAR(bf16_to_float(to[r * N + n]), expected, std::abs(expected) / 250);
    }
}

}  // namespace
}  // namespace optiq::kernels
