// Gain over mx::quantize in decibels, and weights per second of processor time, for
// every format.
//
//   rounding_bench [rows]      one thread: OPTIQ_THREADS=1 rounding_bench
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

#include "optiq/quantize/affine.h"
#include "optiq/quantize/fp_formats.h"

namespace {

using namespace optiq;
using namespace optiq::quantize;

/// Median of processor time, all threads counted: others may be using the machine.
double cpu_seconds_of(const auto& body) {
  std::vector<double> runs;
  for (int i = 0; i < 5; ++i) {
    const std::clock_t start = std::clock();
    body();
    runs.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  std::ranges::nth_element(runs, runs.begin() + 2);
  return runs[2];
}

/// Rows of different sizes, so that scales fall anywhere between powers of two.
template <class Distribution>
std::vector<float> bf16_weights(std::int64_t N, std::int64_t K,
                                Distribution distribution) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> octave(-6, -5);
  std::vector<float> w(N * K);
  for (std::int64_t n = 0; n < N; ++n) {
    const float size = std::exp2(octave(random));
    for (std::int64_t k = 0; k < K; ++k)
      w[n * K + k] =
          bf16_to_float(float_to_bf16(size * static_cast<float>(distribution(random))));
  }
  return w;
}

double decibels(const EncodedTensor& tensor) {
  return 10 * std::log10(tensor.mlx_error / tensor.error);
}

double relative_error(const EncodedTensor& tensor, const std::vector<float>& w) {
  double squares = 0;
  for (float value : w) squares += static_cast<double>(value) * value;
  return tensor.error / squares;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t N = argc > 1 ? std::atoll(argv[1]) : 512, K = 1024;
  const auto normal = bf16_weights(N, K, std::normal_distribution<float>());
  const auto heavy = bf16_weights(N, K, std::student_t_distribution<float>(4));
  std::vector<float> h(K);
  std::mt19937 random(2);
  std::lognormal_distribution<float> lognormal(0, 1);
  for (float& value : h) value = lognormal(random);

  fmt::print(
      "bits,group,scales,gaussian_mse,gaussian_db,thorough_db,student_t4_db,"
      "weighted_db,Mweights_per_cpu_s\n");
  for (FloatType type : {FloatType::kBF16, FloatType::kF16})
    for (int bits : {2, 3, 4, 5, 6, 8})
      for (int group_size : {32, 64, 128}) {
        AffineOptions options{bits, group_size, type, Search::kSearch};
        EncodedTensor tensor;
        const double seconds =
            cpu_seconds_of([&] { tensor = encode_affine(normal, N, K, {}, options); });
        const double heavy_db = decibels(encode_affine(heavy, N, K, {}, options));
        const double weighted_db = decibels(encode_affine(normal, N, K, h, options));
        options.search = Search::kThorough;
        const double best_db = decibels(encode_affine(normal, N, K, {}, options));
        fmt::print("{},{},{},{:.3e},{:.2f},{:.2f},{:.2f},{:.2f},{:.1f}\n", bits,
                   group_size, type == FloatType::kBF16 ? "bf16" : "f16",
                   relative_error(tensor, normal), decibels(tensor), best_db, heavy_db,
                   weighted_db, N * K / seconds / 1e6);
      }

  fmt::print(
      "mode,gaussian_mse,gaussian_db,student_t4_db,weighted_db,Mweights_per_cpu_s\n");
  for (QuantMode mode : {QuantMode::kMxfp4, QuantMode::kMxfp8, QuantMode::kNvfp4}) {
    EncodedTensor tensor;
    const double seconds =
        cpu_seconds_of([&] { tensor = encode_fp(normal, N, K, {}, {mode}); });
    fmt::print("{},{:.3e},{:.2f},{:.2f},{:.2f},{:.1f}\n", name(mode),
               relative_error(tensor, normal), decibels(tensor),
               decibels(encode_fp(heavy, N, K, {}, {mode})),
               decibels(encode_fp(normal, N, K, h, {mode})), N * K / seconds / 1e6);
  }
}
