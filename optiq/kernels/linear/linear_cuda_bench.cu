// linear_cuda_bench [BITS [GROUP]]: bytes a second of products with few rows, weights
// from the device's memory each time, beside a copy's; and of the four products of a
// layer, one behind the other as in a decoding step.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "optiq/kernels/cuda_bench.h"
#include "optiq/kernels/linear/linear_cuda.h"

namespace {

using namespace optiq;
using namespace optiq::kernels;
using optiq::testing::check_cuda;
using optiq::testing::DeviceBuffer;

// The matrices of a layer of Qwen3-8B.
constexpr int kHidden = 4096, kInner = 12288, kHeads = 6144;
constexpr int kLayers = 36;

void layers(const QuantSpec& spec, int M, const DeviceBuffer<std::uint8_t>& memory,
            const DeviceBuffer<std::uint8_t>& scales, std::uint8_t* scratch) {
  const auto rows = static_cast<std::size_t>(M);
  DeviceBuffer<float> x(nullptr, rows * kHidden), heads(nullptr, rows * kHeads),
      inner(nullptr, rows * kInner), norm(nullptr, kHidden);
  cudaMemset(x.data(), 0, x.size() * 4);
  cudaMemset(norm.data(), 0, norm.size() * 4);
  std::size_t at = 0, bytes = 0;
  const auto product = [&](int N, int K, float* y) {
    Product p;
    p.w.N = N, p.w.K = K, p.w.type = FloatType::kBF16, p.w.spec = spec;
    p.y = y;
    const std::size_t codes = std::size_t(N) * K * spec.bits / 8;
    if (at + codes > memory.size()) at = 0;
    p.w.weight = memory.data() + at;
    at += codes;
    p.w.scales = p.w.biases = scales.data();
    bytes += codes + std::size_t(N) * (K / spec.group_size) * 4;
    return p;
  };
  bench::Graph graph([&](const Launcher& launch) {
    for (int layer = 0; layer < kLayers; ++layer) {
      const auto run = [&](const cuda::InputRowsView& input, Product p,
                           float* residual) {
        p.residual = residual;
        cuda::linear(input, {&p, 1}, Activation::kInt8, scratch, launch);
      };
      const cuda::InputRowsView normed{x.data(), M, kHidden, norm.data(), 1e-5f};
      run(normed, product(kHeads, kHidden, heads.data()), nullptr);
      run({heads.data(), M, kHidden}, product(kHidden, kHidden, x.data()), x.data());
      const Product gate = product(kInner, kHidden, inner.data());
      cuda::glu(GluGate::kSilu, normed, gate, product(kInner, kHidden, inner.data()),
                inner.data(), Activation::kInt8, scratch, launch);
      run({inner.data(), M, kInner}, product(kHidden, kInner, x.data()), x.data());
    }
  });
  const double t = bench::device_seconds([&](int) { graph.run(); });
  std::printf("%d rows: a layer's products %.1f us, %.0f GB/s\n", M, t / kLayers * 1e6,
              static_cast<double>(bytes) / t * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const QuantSpec spec{QuantMode::kAffine, argc > 1 ? std::atoi(argv[1]) : 4,
                       argc > 2 ? std::atoi(argv[2]) : 64};
  constexpr std::size_t kMemory = 1 << 30;
  DeviceBuffer<std::uint8_t> weights(nullptr, kMemory), scales(nullptr, kMemory / 4);
  cudaMemset(weights.data(), 0x5a, weights.size());
  cudaMemset(scales.data(), 0x3c, scales.size());
  DeviceBuffer<float> x(nullptr, 32 * 16384), y(nullptr, 32 * 262144);
  DeviceBuffer<std::uint8_t> scratch(nullptr, 256 << 20);
  cudaMemset(x.data(), 0x3c, x.size() * 4);
  for (int i = 0; i < 300; ++i)  // until the clock is up
    cudaMemcpy(weights.data(), weights.data() + kMemory / 2, kMemory / 2,
               cudaMemcpyDeviceToDevice);
  const double copy = bench::device_seconds([&](int) {
    cudaMemcpyAsync(weights.data(), weights.data() + kMemory / 2, kMemory / 2,
                    cudaMemcpyDeviceToDevice);
  });
  std::printf("copy %.0f GB/s read and written\n", kMemory / copy * 1e-9);
  std::printf("%s, GB/s (us)\n%14s", describe(spec).c_str(), "N, K \\ rows");
  const int rows[] = {1, 2, 4, 8, 16, 32};
  for (int M : rows) std::printf("%14d", M);
  std::printf("%14s\n", "1, exact");
  const int shapes[][2] = {{1024, 4096},  {4096, 4096},  {6144, 4096},
                           {12288, 4096}, {4096, 12288}, {151936, 4096}};
  for (const auto& [N, K] : shapes) {
    Product product;
    product.w.N = N;
    product.w.K = K;
    product.w.type = FloatType::kBF16;
    product.w.spec = spec;
    product.y = y.data();
    const std::size_t codes = std::size_t(N) * K * spec.bits / 8;
    const std::size_t of_scales = std::size_t(N) * (K / spec.group_size) * 2;
    const int copies = std::max<int>(1, kMemory / codes);
    const auto line = [&](int M, Activation activation) {
      const double t = bench::device_seconds([&](int i) {
        product.w.weight = weights.data() + i % copies * codes;
        product.w.scales = scales.data() + i % 8 * of_scales;
        product.w.biases = scales.data() + (i % 8 + 8) * of_scales;
        if ((i % 8 + 9) * of_scales > scales.size())
          product.w.scales = product.w.biases = scales.data();
        cuda::linear({x.data(), M, K}, {&product, 1}, activation, scratch.data(),
                     testing::launch_now);
      });
      std::printf("%7.0f (%4.0f)", (codes + 2 * of_scales) / t * 1e-9, t * 1e6);
    };
    std::printf("%6d, %6d", N, K);
    for (int M : rows) line(M, Activation::kInt8);
    line(1, Activation::kExact);
    std::printf("\n");
  }
  for (int M : rows) layers(spec, M, weights, scales, scratch.data());
}
