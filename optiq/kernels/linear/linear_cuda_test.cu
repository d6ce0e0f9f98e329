#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "optiq/kernels/cuda_testing.h"
#include "optiq/kernels/linear/linear_cuda.h"
#include "optiq/kernels/linear/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

struct Shape {
  int M, N, K;
};
// One row, tiles that are not full, one group, parts of a step, several chunks.
const Shape kShapes[] = {{1, 1, 128},   {1, 17, 384},   {2, 33, 1024},  {3, 16, 2304},
                         {8, 70, 2048}, {9, 5, 640},    {16, 40, 4096}, {17, 33, 384},
                         {32, 18, 640}, {45, 20, 2176}, {1, 64, 12288}, {5, 33, 128}};

// The device's copies of a call.
struct DeviceCall {
  int M;
  DeviceBuffer<float> x, residual, y;
  DeviceBuffer<std::uint8_t> weight, scales, biases, bias;
  Product product;

  DeviceCall(const std::vector<float>& host_x, const Product& host, int rows)
      : M(rows),
        x(host_x.data(), host_x.size()),
        residual(host.residual, host.residual ? std::size_t(M) * host.w.N : 0),
        y(nullptr, std::size_t(M) * host.w.N),
        weight(host.w.weight, std::size_t(host.w.N) * host.w.row_bytes()),
        scales(host.w.scales, of_scales(host.w)),
        biases(host.w.biases, host.w.biases ? of_scales(host.w) : 0),
        bias(host.bias,
             host.bias ? std::size_t(host.w.N) * size_of(host.bias_type) : 0),
        product(host) {
    product.w.weight = weight.data();
    product.w.scales = scales.data();
    product.w.biases = biases.data();
    product.bias = bias.data();
    product.residual = residual.data();
    product.y = y.data();
  }

  std::vector<float> run(Activation activation) {
    const int K = product.w.K;
    const cuda::InputRowsView input{x.data(), M, K};
    DeviceBuffer<std::uint8_t> scratch(
        nullptr, cuda::scratch_bytes(input, {&product, 1}, false, activation));
    cuda::linear(input, {&product, 1}, activation, scratch.data(), launch_now);
    return y.to_host();
  }

  static std::size_t of_scales(const MatrixView& w) {
    return std::size_t(w.N) * w.groups() *
           (w.spec.mode == QuantMode::kAffine ? size_of(w.type) : 1);
  }
};

// What rounding x may change: its share of the sum of the terms' sizes.
std::vector<double> bounds(const std::vector<float>& x, int M, const MatrixView& w,
                           double share) {
  std::vector<double> all;
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < w.N; ++n) {
      double sum = 0;
      for (int g = 0; g < w.groups(); ++g) {
        double largest = 0, weights = 0;
        for (int k = g * w.spec.group_size; k < (g + 1) * w.spec.group_size; ++k) {
          largest = std::max(largest, std::abs(double(x[std::size_t(m) * w.K + k])));
          // Codes are added before the bias takes back what they are too large by.
          weights += std::abs(double(ref::weight_at(w, n, k)));
          if (w.biases)
            weights += 2 * std::abs(double(load_float(
                               w.biases, std::int64_t{n} * w.groups() + g, w.type)));
        }
        sum += largest * weights;
      }
      all.push_back(share * sum + 1e-6);
    }
  return all;
}

// `of_halves`: that share where x is in half precision, `of_bytes` where it is whole
// numbers.
void expect_products(Activation activation, double of_halves, double of_bytes) {
  for (const QuantSpec& spec : all_specs()) {
    std::uint32_t seed = 1;
    for (const auto& [M, N, K] : kShapes) {
      const auto type = static_cast<FloatType>(seed % 3);
      SCOPED_TRACE(::testing::Message() << describe(spec) << " M " << M << " N " << N
                                        << " K " << K << " type " << int(type));
      const TestMatrix w = random_coded(N, K, spec, type, ++seed);
      std::vector<float> x = random_floats(std::size_t(M) * K, seed + 7);
      for (int k = 0; k < 32; ++k) x[k] *= k % 2 ? 1e-6f : 3e4f;  // groups of all sizes
      const std::vector<float> residual = random_floats(std::size_t(M) * N, seed + 8);
      const Bytes bias = stored_as(type, random_floats(N, seed + 9));
      std::vector<float> expected(std::size_t(M) * N);
      Product product;
      product.w = w.view;
      if (seed % 2) product.residual = residual.data();
      if (seed % 3) product.bias = bias.data();
      product.bias_type = type;
      product.y = expected.data();
      ref::linear_exact(x.data(), M, K, product);
      DeviceCall call(x, product, M);
      const std::vector<float> y = call.run(activation);
      const int last_piece = M % cuda::kMostRows, fewest = last_piece ? last_piece : M;
      const bool bytes = spec.mode == QuantMode::kAffine &&
                         (activation == Activation::kExact || type == FloatType::kF32 ||
                          (M <= cuda::kMostRows && fewest <= cuda::kMostByteRows));
      const std::vector<double> bound =
          bounds(x, M, w.view, bytes ? of_bytes : of_halves);
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], bound[i] + 1e-6 * std::abs(expected[i])) << i;
    }
  }
}

TEST(LinearCuda, IsTheReferenceButForTheBitsOfX) {
  expect_products(Activation::kInt8, 0x1p-12, 0x1p-15);
}

TEST(LinearCuda, IsTheReferenceInExact) {
  expect_products(Activation::kExact, 0x1p-19, 0x1p-21);
}

// Products of one x share launches where their formats are one; none changes another.
TEST(LinearCuda, GivesProductsTheSameBitsTogetherAsAlone) {
  const int K = 1024;
  const QuantSpec four{QuantMode::kAffine, 4, 64}, five{QuantMode::kAffine, 5, 64};
  const std::pair<int, QuantSpec> parts[] = {{70, four},  {33, four}, {16, five},
                                             {100, five}, {1, four},  {9000, four},
                                             {20, four},  {12, four}};
  for (const int M : {1, 3, 40})
    for (const Activation activation : {Activation::kInt8, Activation::kExact}) {
      const std::vector<float> x = random_floats(std::size_t(M) * K, 5);
      std::vector<TestMatrix> weights;
      std::vector<std::unique_ptr<DeviceCall>> calls;
      std::vector<Product> together;
      for (const auto& [N, spec] : parts) {
        weights.push_back(random_coded(N, K, spec, FloatType::kBF16, N));
        Product product;
        product.w = weights.back().view;
        calls.push_back(std::make_unique<DeviceCall>(x, product, M));
        together.push_back(calls.back()->product);
      }
      std::vector<std::vector<float>> alone;
      for (const auto& call : calls) {
        alone.push_back(call->run(activation));
        check_cuda(cudaMemset(call->y.data(), 0xff, call->y.size() * sizeof(float)),
                   "clearing");
      }
      const cuda::InputRowsView input{calls[0]->x.data(), M, K};
      DeviceBuffer<std::uint8_t> scratch(
          nullptr, cuda::scratch_bytes(input, together, false, activation));
      cuda::linear(input, together, activation, scratch.data(), launch_now);
      for (std::size_t i = 0; i < calls.size(); ++i)
        EXPECT_EQ(calls[i]->y.to_host(), alone[i]) << M << " " << i;
    }
}

// Which rows share a call changes no bit, as long as their number leaves x in its form.
TEST(LinearCuda, GivesARowTheSameBitsInEveryCompany) {
  const QuantSpec spec{QuantMode::kAffine, 4, 64};
  const int M = cuda::kMostRows, N = 48, K = 4096;
  const TestMatrix w = random_coded(N, K, spec, FloatType::kBF16, 3);
  const std::vector<float> x = random_floats(std::size_t(M) * K, 4);
  Product product;
  product.w = w.view;
  const auto rows = [&](Activation activation, int first, int n) {
    return DeviceCall({x.begin() + first * K, x.begin() + (first + n) * K}, product, n)
        .run(activation);
  };
  const auto expect_same = [&](Activation activation, int together, int apart) {
    const std::vector<float> all = rows(activation, 0, together);
    for (int m = 0; m + apart <= together; m += apart) {
      const std::vector<float> some = rows(activation, m, apart);
      for (std::size_t i = 0; i < some.size(); ++i)
        ASSERT_EQ(some[i], all[m * N + i]) << together << ' ' << m << ' ' << i;
    }
  };
  expect_same(Activation::kInt8, cuda::kMostByteRows, 1);
  expect_same(Activation::kInt8, M, cuda::kMostByteRows + 1);
  expect_same(Activation::kExact, M, 1);
}

std::vector<float> normed(const std::vector<float>& x, const std::vector<float>& weight,
                          float eps) {
  const std::size_t K = weight.size();
  std::vector<float> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += K) {
    double square = 0;
    for (std::size_t k = 0; k < K; ++k) square += double(x[row + k]) * x[row + k];
    const double factor = 1 / std::sqrt(square / static_cast<double>(K) + eps);
    for (std::size_t k = 0; k < K; ++k)
      y[row + k] = static_cast<float>(weight[k] * (x[row + k] * factor));
  }
  return y;
}

// A norm and a gate in a product are those of kernels of their own; and the number of
// rows, which decides who makes them, changes no bit.
TEST(LinearCuda, JoinsNormAndGate) {
  const int N = 90, K = 1088;
  for (const QuantSpec& spec : all_specs()) {
    if (!cuda::joins_norm_and_gate(spec) || K % spec.group_size != 0) continue;
    const TestMatrix gate = random_coded(N, K, spec, FloatType::kBF16, 3);
    const TestMatrix up = random_coded(N, K, spec, FloatType::kBF16, 4);
    const std::vector<float> weight = random_floats(K, 5);
    std::vector<std::vector<float>> first_rows;
    for (const int M : {1, 2, 3, 9, 40}) {
      SCOPED_TRACE(::testing::Message() << describe(spec) << " M " << M);
      std::vector<float> x = random_floats(std::size_t(M) * K, 6);
      const std::vector<float> rows = normed(x, weight, 1e-5f);
      std::vector<float> expected(std::size_t(M) * N), g(expected.size()), u(g.size());
      Product products[2];
      products[0].w = gate.view, products[0].y = g.data();
      products[1].w = up.view, products[1].y = u.data();
      for (const Product& product : products)
        ref::linear_exact(rows.data(), M, K, product);
      for (std::size_t i = 0; i < g.size(); ++i)
        expected[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
      DeviceCall of_gate(x, products[0], M), of_up(x, products[1], M);
      DeviceBuffer<float> y(nullptr, expected.size()), w(weight.data(), K);
      const cuda::InputRowsView input{of_gate.x.data(), M, K, w.data(), 1e-5f};
      const Product both[] = {of_gate.product, of_up.product};
      DeviceBuffer<std::uint8_t> scratch(
          nullptr, cuda::scratch_bytes(input, both, true, Activation::kExact));
      cuda::glu(GluGate::kSilu, input, of_gate.product, of_up.product, y.data(),
                Activation::kExact, scratch.data(), launch_now);
      const std::vector<float> found = y.to_host();
      const double largest = std::abs(
          *std::ranges::max_element(expected, {}, [](float v) { return std::abs(v); }));
      for (std::size_t i = 0; i < found.size(); ++i)
        ASSERT_NEAR(found[i], expected[i], 1e-5 * largest) << i;
      first_rows.emplace_back(found.begin(), found.begin() + N);
      EXPECT_EQ(first_rows.back(), first_rows.front());
    }
  }
}

// What is no number stays none, and only in its row.
TEST(LinearCuda, KeepsWhatIsNoNumber) {
  const int N = 20, K = 256;
  const TestMatrix w =
      random_coded(N, K, {QuantMode::kAffine, 4, 64}, FloatType::kBF16, 3);
  for (const auto& [M, bad] : {std::pair{3, std::numeric_limits<float>::quiet_NaN()},
                               {3, std::numeric_limits<float>::infinity()},
                               {12, std::numeric_limits<float>::quiet_NaN()},
                               {12, std::numeric_limits<float>::infinity()}}) {
    std::vector<float> x = random_floats(std::size_t(M) * K, 4);
    x[K + 70] = bad;
    Product product;
    product.w = w.view;
    for (const Activation activation : {Activation::kInt8, Activation::kExact}) {
      DeviceCall call(x, product, M);
      const std::vector<float> y = call.run(activation);
      for (int i = 0; i < M * N; ++i) EXPECT_EQ(std::isfinite(y[i]), i / N != 1) << i;
    }
  }
}

}  // namespace
}  // namespace optiq::kernels
