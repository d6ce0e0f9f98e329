// Error-compensated rounding: lower output error on every trial, safe on bad Hessians.
#include "optiq/quantize/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "optiq/quantize/cholesky.h"
#include "optiq/quantize/descent.h"
#include "optiq/quantize/packing.h"
#include "optiq/quantize/testing.h"

namespace optiq::quantize {
namespace {

/// E[x x^T] of `samples` vectors x = A z, A random with `rank` columns, some channels
/// an order of magnitude larger.
std::vector<float> random_hessian(std::int64_t K, int rank, int samples,
                                  unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> mix(K * rank), x(K), sum(K * K);
  for (double& value : mix) value = normal(random);
  for (std::int64_t k = 0; k < K; k += 17)
    for (int r = 0; r < rank; ++r) mix[k * rank + r] *= 12;
  for (int sample = 0; sample < samples; ++sample) {
    std::vector<double> z(rank);
    for (double& value : z) value = normal(random);
    for (std::int64_t k = 0; k < K; ++k) {
      x[k] = 0.1 * normal(random);
      for (int r = 0; r < rank; ++r) x[k] += mix[k * rank + r] * z[r];
    }
    for (std::int64_t i = 0; i < K; ++i)
      for (std::int64_t j = 0; j < K; ++j) sum[i * K + j] += x[i] * x[j];
  }
  std::vector<float> H(K * K);
  for (std::size_t i = 0; i < H.size(); ++i)
    H[i] = static_cast<float>(sum[i] / samples);
  return H;
}

/// tr(dW H dW^T) in double, from the definition.
double exact_output_error(const std::vector<float>& w, const EncodedTensor& tensor,
                          const std::vector<float>& H) {
  const auto decoded = decode_affine(tensor);
  const std::int64_t K = tensor.K;
  double sum = 0;
  for (std::int64_t n = 0; n < tensor.N; ++n)
    for (std::int64_t i = 0; i < K; ++i) {
      double row = 0;
      for (std::int64_t j = 0; j < K; ++j)
        row += static_cast<double>(H[i * K + j]) *
               (static_cast<double>(w[n * K + j]) - decoded[n * K + j]);
      sum += row * (static_cast<double>(w[n * K + i]) - decoded[n * K + i]);
    }
  return sum;
}

TEST(Gptq, LowersTheOutputErrorOnEveryTrial) {
  for (unsigned trial = 0; trial < 6; ++trial)
    for (int bits : {2, 3, 4, 6, 8}) {
      const std::int64_t N = 33, K = 192;
      const auto w = make_weights(trial % 2 ? Kind::kNormal : Kind::kHeavyTailed, N, K,
                                  100 + trial);
      const auto H = random_hessian(K, 24, 300, trial);
      const AffineOptions affine{bits, trial % 3 ? 64 : 32, FloatType::kBF16};
      const auto result = encode_gptq(w, N, K, H, {affine});
      std::vector<float> h(K);
      for (std::int64_t k = 0; k < K; ++k) h[k] = H[k * K + k];
      const double searched =
          exact_output_error(w, encode_affine(w, N, K, floored(h), affine), H);
      const double ours = exact_output_error(w, result.tensor, H);
      EXPECT_LT(ours, 0.7 * searched) << "trial " << trial << ", " << bits << " bits";
      // Float products of K terms whose sum is far smaller than they are.
      EXPECT_NEAR(result.output_error, ours, 1e-3 * ours);
      EXPECT_NEAR(result.searched_output_error, searched, 1e-3 * searched);
    }
}

TEST(Gptq, KeepsTheSearchedCodesWhereInputsAreUncorrelated) {
  const std::int64_t N = 20, K = 128;
  const auto w = make_weights(Kind::kNormal, N, K, 1);
  std::vector<float> H(K * K), h(K);
  for (std::int64_t k = 0; k < K; ++k) H[k * K + k] = h[k] = 1 + 0.01f * k;
  const auto result = encode_gptq(w, N, K, H, {});
  // Only stored neighbours of scales that weigh the damped diagonal may differ.
  EXPECT_LE(result.output_error, result.searched_output_error);
  EXPECT_GE(result.output_error, 0.99 * result.searched_output_error);
}

TEST(Gptq, NeverLosesOnDegenerateHessians) {
  const std::int64_t N = 19, K = 128;
  const auto w = make_weights(Kind::kNormal, N, K, 2);
  std::vector<std::vector<float>> cases;
  cases.emplace_back(K * K, 0.0f);              // no input at all
  cases.push_back(random_hessian(K, 1, 1, 3));  // one sample
  auto dead = random_hessian(K, 8, 200, 4);     // channels that are always zero
  for (std::int64_t k = 0; k < K; ++k)
    for (std::int64_t d : {3, 64, 127}) dead[k * K + d] = dead[d * K + k] = 0;
  cases.push_back(dead);
  auto indefinite = random_hessian(K, 8, 200, 5);  // not a covariance at all
  for (std::int64_t k = 1; k < K; ++k)
    indefinite[k * K] = indefinite[k] = 100 * indefinite[0];
  cases.push_back(indefinite);
  auto huge = random_hessian(K, 8, 200, 6);
  for (float& value : huge) value *= 1e30f;
  cases.push_back(huge);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    const auto result = encode_gptq(w, N, K, cases[i], {});
    EXPECT_LE(result.output_error, result.searched_output_error);
    for (float value : decode_affine(result.tensor)) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(Gptq, CodesDoNotDependOnTheChunkARowFallsIn) {
  const std::int64_t N = 600, K = 64;
  const auto w = make_weights(Kind::kNormal, N, K, 7);
  const auto H = random_hessian(K, 8, 100, 8);
  const auto all = encode_gptq(w, N, K, H, {});
  const auto last = encode_gptq({w.data() + 520 * K, 80 * K}, 80, K, H, {});
  const std::size_t words = K * 4 / 32;
  const std::vector<std::uint32_t> tail(all.tensor.weight.begin() + 520 * words,
                                        all.tensor.weight.end());
  // BLAS may sum in another order, which moves codes at ties: count, not equality.
  std::size_t different = 0;
  for (std::size_t i = 0; i < tail.size(); ++i)
    different += tail[i] != last.tensor.weight[i];
  EXPECT_LE(different, tail.size() / 50);
}

TEST(Gptq, RefusesBadHessians) {
  const auto w = make_weights(Kind::kNormal, 2, 64, 9);
  std::vector<float> H(64 * 64);
  EXPECT_THROW(encode_gptq(w, 2, 64, std::vector<float>(64), {}),
               std::invalid_argument);
  H[65] = -1;
  EXPECT_THROW(encode_gptq(w, 2, 64, H, {}), std::invalid_argument);
  H[65] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(encode_gptq(w, 2, 64, H, {}), std::invalid_argument);
}

TEST(Descent, LowersTheErrorOfAnyTensorAndTellsByHowMuch) {
  for (int bits : {2, 3, 4, 5, 6, 8})
    for (int group_size : {32, 64, 128}) {
      SCOPED_TRACE(bits);
      const std::int64_t N = 37, K = 256;
      const auto w = make_weights(Kind::kHeavyTailed, N, K, 11);
      auto H = random_hessian(K, 24, 300, 12);
      for (std::int64_t k = 0; k < K; ++k) H[k * K + k] += 0.1f;
      for (FloatType type : {FloatType::kBF16, FloatType::kF16, FloatType::kF32}) {
        EncodedTensor tensor = encode_affine(w, N, K, {}, {bits, group_size, type});
        const double before = exact_output_error(w, tensor, H);
        const double gain = descend(w, H, 4, tensor);
        const double after = exact_output_error(w, tensor, H);
        EXPECT_LT(after, 0.9 * before);
        EXPECT_NEAR(before - after, gain, 2e-3 * before);
      }
    }
}

// At the end of a descent no single code is better elsewhere.
TEST(Descent, EndsWhereNoCodeCanBeBetter) {
  const std::int64_t N = 3, K = 64;
  const auto w = make_weights(Kind::kNormal, N, K, 13);
  auto H = random_hessian(K, 12, 200, 14);
  for (std::int64_t k = 0; k < K; ++k) H[k * K + k] += 0.5f;
  EncodedTensor tensor = encode_affine(w, N, K, {}, {4, 64, FloatType::kBF16});
  descend(w, H, 100, tensor);
  const double best = exact_output_error(w, tensor, H);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(N * K));
  unpack_codes(tensor.weight, 4, codes);
  for (std::size_t i = 0; i < codes.size(); ++i)
    for (int step : {-1, 1}) {
      auto moved = codes;
      if (codes[i] + step < 0 || codes[i] + step > 15) continue;
      moved[i] = static_cast<std::uint8_t>(codes[i] + step);
      EncodedTensor other = tensor;
      pack_codes(moved, 4, other.weight);
      EXPECT_GE(exact_output_error(w, other, H), best * (1 - 1e-4)) << i;
    }
}

TEST(Descent, ARowDoesNotDependOnTheOthers) {
  const std::int64_t N = 70, K = 128;
  const auto w = make_weights(Kind::kNormal, N, K, 15);
  auto H = random_hessian(K, 12, 200, 16);
  for (std::int64_t k = 0; k < K; ++k) H[k * K + k] += 0.1f;
  EncodedTensor all = encode_affine(w, N, K, {}, {});
  descend(w, H, 3, all);
  const std::span<const float> last(w.data() + 69 * K, K);
  EncodedTensor one = encode_affine(last, 1, K, {}, {});
  descend(last, H, 3, one);
  const std::size_t words = K * 4 / 32;
  EXPECT_EQ(one.weight,
            std::vector<std::uint32_t>(all.weight.end() - words, all.weight.end()));
}

TEST(Cholesky, MultipliesBackToTheMatrix) {
  for (std::int64_t n : {1, 7, 128, 129, 300}) {
    auto A = random_hessian(n, 5, 400, 10);
    for (std::int64_t i = 0; i < n; ++i) A[i * n + i] += 1;
    auto L = A;
    ASSERT_TRUE(cholesky(L, n));
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < n; ++k)
          sum += static_cast<double>(L[i * n + k]) * L[j * n + k];
        // Backward error of the factor: n eps sqrt(A_ii A_jj).
        const double scale = std::sqrt(double(A[i * n + i]) * A[j * n + j]);
        ASSERT_NEAR(sum, A[i * n + j], (n + 1) * 1.2e-7 * scale) << n;
      }
  }
}

TEST(Cholesky, RefusesAnIndefiniteMatrix) {
  std::vector<float> A = {1, 2, 2, 1};
  EXPECT_FALSE(cholesky(A, 2));
}

}  // namespace
}  // namespace optiq::quantize
