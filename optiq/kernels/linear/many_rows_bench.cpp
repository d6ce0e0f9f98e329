// What a layer's products of many rows take on a GPU, and the parts of each.
//
//   many_rows_bench [ROWS]   of a Qwen3-8B layer, 4 bits, group 64; by default 2048
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "optiq/kernels/linear/many_rows_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

namespace optiq::kernels {
namespace {

mx::array random(const mx::Shape& shape) {
  mx::array x = mx::random::normal(shape, mx::float32);
  mx::eval(x);
  return x;
}

LinearWeight random_weight(int N, int K) {
  constexpr QuantSpec kSpec{QuantMode::kAffine, 4, 64};
  auto parts = mx::quantize(mx::astype(random({N, K}), mx::bfloat16), 64, 4);
  for (mx::array& part : parts) mx::eval(part);
  return {parts[0], parts[1], parts[2], std::nullopt, kSpec};
}

// Milliseconds of one of many calls, the median of some rounds.
double milliseconds(const std::function<mx::array()>& call) {
  constexpr int kCalls = 20, kRounds = 5;
  std::vector<double> all;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<mx::array> results;
    for (int i = 0; i < kCalls; ++i) results.push_back(call());
    const auto start = std::chrono::steady_clock::now();
    mx::eval(std::move(results));
    const std::chrono::duration<double, std::milli> spent =
        std::chrono::steady_clock::now() - start;
    all.push_back(spent.count() / kCalls);
  }
  std::ranges::nth_element(all, all.begin() + kRounds / 2);
  return all[kRounds / 2];
}

void run(int T) {
  constexpr int K = 4096, kInner = 12288;
  struct Product {
    const char* name;
    std::vector<LinearWeight> weights;
    int K;
  };
  const std::vector<Product> products{
      {"q, k, v",
       {random_weight(4096, K), random_weight(1024, K), random_weight(1024, K)},
       K},
      {"o", {random_weight(K, 4096)}, 4096},
      {"gate, up", {random_weight(kInner, K), random_weight(kInner, K)}, K},
      {"down", {random_weight(K, kInner)}, kInner}};
  const mx::array norm = random({K});
  fmt::print("{} rows, ms:       all  dequantize  product (TFLOP/s)  the rest\n", T);
  double sum = 0;
  for (const Product& p : products) {
    const mx::array x = random({T, p.K}), residual = random({T, K});
    const mx::array narrow = mx::astype(x, mx::bfloat16);
    const mx::array w = dequantized_bf16(p.weights);
    mx::eval(narrow, w);
    const double all = milliseconds([&] {
      const mx::array in = p.K == K ? rms_norm(x, norm, 1e-6f) : x;
      if (p.weights.size() == 2) return glu_many(in, p.weights, GluGate::kSilu);
      return linear_many(
          in, p.weights,
          p.weights.size() == 1 ? std::optional(residual) : std::nullopt)[0];
    });
    const double dequantize = milliseconds([&] { return dequantized_bf16(p.weights); });
    const double product =
        milliseconds([&] { return mx::matmul(narrow, mx::transpose(w)); });
    fmt::print("{:>16} {:8.3f} {:11.3f} {:9.3f} ({:4.0f}) {:12.3f}\n", p.name, all,
               dequantize, product, 2e-9 * T * p.K * w.shape(0) / product,
               all - dequantize - product);
    sum += all;
  }
  fmt::print("a layer {:.3f} ms\n", sum);
}

}  // namespace
}  // namespace optiq::kernels

int main(int argc, char** argv) {
  mlx::core::set_default_device(mlx::core::Device::gpu);
  optiq::kernels::run(argc > 1 ? std::atoi(argv[1]) : 2048);
}
