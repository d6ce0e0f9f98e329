#include <gtest/gtest.h>

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
    DeviceBuffer<std::uint8_t> scratch(nullptr, cuda::scratch_bytes(M, K, activation));
    cuda::linear(x.data(), M, K, {&product, 1}, activation, scratch.data(), launch_now);
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

void expect_products(Activation activation, double share) {
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
      const std::vector<double> bound = bounds(x, M, w.view, share);
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(y[i], expected[i], bound[i] + 1e-6 * std::abs(expected[i])) << i;
    }
  }
}

TEST(LinearCuda, IsTheReferenceButForElevenBitsOfX) {
  expect_products(Activation::kInt8, 0x1p-12);
}

TEST(LinearCuda, IsTheReferenceInExact) {
  expect_products(Activation::kExact, 0x1p-19);
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
      DeviceBuffer<std::uint8_t> scratch(nullptr,
                                         cuda::scratch_bytes(M, K, activation));
      cuda::linear(calls[0]->x.data(), M, K, together, activation, scratch.data(),
                   launch_now);
      for (std::size_t i = 0; i < calls.size(); ++i)
        EXPECT_EQ(calls[i]->y.to_host(), alone[i]) << M << " " << i;
    }
}

// Which rows share a call changes no bit.
TEST(LinearCuda, GivesARowTheSameBitsInEveryCompany) {
  const QuantSpec spec{QuantMode::kAffine, 4, 64};
  const int M = 32, N = 48, K = 4096;
  const TestMatrix w = random_coded(N, K, spec, FloatType::kBF16, 3);
  const std::vector<float> x = random_floats(std::size_t(M) * K, 4);
  Product product;
  product.w = w.view;
  for (Activation activation : {Activation::kInt8, Activation::kExact}) {
    DeviceCall all(x, product, M);
    const std::vector<float> together = all.run(activation);
    for (int m : {0, 7, 8, 21, 31}) {
      DeviceCall one({x.begin() + m * K, x.begin() + (m + 1) * K}, product, 1);
      const std::vector<float> alone = one.run(activation);
      for (int n = 0; n < N; ++n)
        ASSERT_EQ(alone[n], together[m * N + n]) << m << ' ' << n;
    }
  }
}

}  // namespace
}  // namespace optiq::kernels
