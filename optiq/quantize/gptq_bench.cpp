// Output error against plain rounding, and seconds, for two kinds of inputs.
//
//   gptq_bench [K] [N]
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "optiq/quantize/blas.h"
#include "optiq/quantize/gptq.h"

namespace {

using namespace optiq;
using namespace optiq::quantize;

/// Inputs of which every channel is a sum of `rank` shared ones with falling weights
/// and a share of noise, `outliers` channels 12 times larger.
std::vector<float> hessian(int K, int rank, double decay, double noise, int outliers) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const int samples = 4 * K;
  std::vector<float> mix(static_cast<std::size_t>(rank) * K), z(rank);
  for (float& value : mix) value = normal(random);
  std::vector<float> X(static_cast<std::size_t>(samples) * K), Z(samples * rank);
  for (int i = 0; i < samples * rank; ++i)
    Z[i] = normal(random) * std::exp(-decay * (i % rank));
  for (float& value : X) value = static_cast<float>(noise) * normal(random);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, samples, K, rank, 1, Z.data(),
              rank, mix.data(), K, 1, X.data(), K);
  for (int c = 0; c < outliers; ++c)
    for (int s = 0; s < samples; ++s) X[s * K + (c * 37) % K] *= 12;
  std::vector<float> H(static_cast<std::size_t>(K) * K);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, K, K, samples, 1.0f / samples,
              X.data(), K, X.data(), K, 0, H.data(), K);
  return H;
}

double error_of(const std::vector<float>& w, const EncodedTensor& tensor,
                const std::vector<float>& H) {
  std::vector<float> difference = decode_affine(tensor);
  for (std::size_t i = 0; i < w.size(); ++i) difference[i] = w[i] - difference[i];
  return output_error(difference, tensor.N, tensor.K, H);
}

}  // namespace

int main(int argc, char** argv) {
  const int K = argc > 1 ? std::atoi(argv[1]) : 1024;
  const int N = argc > 2 ? std::atoi(argv[2]) : 1024;
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> w(static_cast<std::size_t>(N) * K);
  for (float& value : w) value = bf16_to_float(float_to_bf16(normal(random)));
  struct Case {
    const char* name;
    std::vector<float> H;
  };
  const Case cases[] = {{"mild", hessian(K, K / 4, 4.0 / K, 1.0, 0)},
                        {"outliers", hessian(K, K / 4, 12.0 / K, 0.3, K / 64)}};
  fmt::print(
      "inputs,K,N,bits,group,search_db,weighted_search_db,gptq_db,rows,seconds\n");
  for (const Case& test : cases)
    for (int bits : {2, 3, 4, 6}) {
      const AffineOptions options{bits, 64, FloatType::kBF16};
      AffineOptions plain = options;
      plain.search = Search::kMlx;
      const double mlx = error_of(w, encode_affine(w, N, K, {}, plain), test.H);
      const double searched = error_of(w, encode_affine(w, N, K, {}, options), test.H);
      const auto start = std::chrono::steady_clock::now();
      const auto result = encode_gptq(w, N, K, test.H, {options});
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
              .count();
      fmt::print("{},{},{},{},64,{:.2f},{:.2f},{:.2f},{}/{},{:.2f}\n", test.name, K, N,
                 bits, 10 * std::log10(mlx / searched),
                 10 * std::log10(mlx / result.searched_output_error),
                 10 * std::log10(mlx / result.output_error), result.compensated_rows, N,
                 seconds);
    }
}
