// The affine encoder against mx::quantize: identical when asked, never worse by
// default.
#include "optiq/quantize/affine.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/quantize/packing.h"
#include "optiq/quantize/testing.h"

namespace optiq::quantize {
namespace {

namespace mx = mlx::core;

const FloatType kTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};
const int kBits[] = {2, 3, 4, 5, 6, 8};
const int kGroups[] = {32, 64, 128};

void expect_same_bytes(const EncodedTensor& ours, const std::vector<mx::array>& mlx) {
  EXPECT_EQ(bytes_of(mlx[0]), as_bytes(ours.weight));
  EXPECT_EQ(bytes_of(mlx[1]), ours.scales);
  EXPECT_EQ(bytes_of(mlx[2]), ours.biases);
}

TEST(Affine, GivesTheBytesOfTheReferenceFile) {
  auto file = load_reference();
  const std::vector<float> w = floats_of(file.at("w"));
  int n_checked = 0;
  for (FloatType type : kTypes)
    for (int bits : kBits)
      for (int group_size : kGroups) {
        const std::string name = "affine.b" + std::to_string(bits) + ".g" +
                                 std::to_string(group_size) + "." + mlx_name(type);
        if (!file.contains(name + ".weight")) continue;
        SCOPED_TRACE(name);
        const auto ours =
            encode_affine(w, 16, 384, {}, {bits, group_size, type, Search::kMlx});
        expect_same_bytes(ours, {file.at(name + ".weight"), file.at(name + ".scales"),
                                 file.at(name + ".biases")});
        ++n_checked;
      }
  EXPECT_GE(n_checked, 15);
}

TEST(Affine, GivesTheBytesOfMlxOnEveryKindOfGroup) {
  for (Kind kind : kKinds)
    for (FloatType type : kTypes)
      for (int bits : kBits)
        for (int group_size : kGroups) {
          const std::int64_t N = 19, K = 256;
          auto w = make_weights(kind, N, K, 7 * bits + group_size);
          for (float& value : w) value = rounded(value, type);
          SCOPED_TRACE(describe_case(kind, bits, group_size, type));
          const auto ours =
              encode_affine(w, N, K, {}, {bits, group_size, type, Search::kMlx});
          expect_same_bytes(ours,
                            mx::quantize(to_mlx(w, N, K, type), group_size, bits));
        }
}

TEST(Affine, IsNeverWorseThanMlxInAnyGroup) {
  for (Kind kind : kAnyKinds)
    for (FloatType type : kTypes)
      for (int bits : kBits)
        for (int group_size : kGroups) {
          const std::int64_t N = 37, K = 256;
          const auto w = make_weights(kind, N, K, 3 * bits + group_size);
          const auto h = make_importance(K, bits + group_size);
          SCOPED_TRACE(describe_case(kind, bits, group_size, type));
          const AffineOptions options{bits, group_size, type, Search::kSearch};
          const auto ours = group_errors(w, h, encode_affine(w, N, K, h, options));
          const auto mlx = group_errors(
              w, h,
              from_mlx(mx::quantize(to_mlx(w, N, K, type), group_size, bits), N, K,
                       options));
          for (std::size_t g = 0; g < ours.size(); ++g) {
            ASSERT_TRUE(std::isfinite(ours[g])) << "group " << g;
            // Both sums are of the same terms in double; only their order differs.
            if (!std::isfinite(mlx[g])) continue;
            ASSERT_LE(ours[g], mlx[g] * (1 + 1e-12)) << "group " << g;
          }
        }
}

TEST(Affine, ReportsTheErrorsOfWhatItReturns) {
  const std::int64_t N = 33, K = 192;
  const auto w = make_weights(Kind::kHeavyTailed, N, K, 5);
  const auto h = make_importance(K, 6);
  const auto tensor = encode_affine(w, N, K, h, {4, 64, FloatType::kBF16});
  double sum = 0;
  for (double error : group_errors(w, h, tensor)) sum += error;
  EXPECT_NEAR(tensor.error, sum, 1e-6 * sum);  // importances are scaled in float
  EXPECT_LT(tensor.error, tensor.mlx_error);
}

TEST(Affine, LowersTheErrorByWhatIsClaimed) {
  // Gains over mx::quantize in dB on Gaussian weights, groups of 64, bf16 scales. The
  // bounds are a tenth of a dB under the table in docs/decisions/rounding.md.
  const std::int64_t N = 256, K = 1024;
  auto w = make_weights(Kind::kNormal, N, K, 11);
  for (float& value : w) value = rounded(value, FloatType::kBF16);
  const std::pair<int, double> claims[] = {{2, 1.7},  {3, 1.2}, {4, 0.9},
                                           {5, 0.85}, {6, 0.9}, {8, 3.0}};
  for (auto [bits, gain] : claims) {
    const auto tensor = encode_affine(w, N, K, {}, {bits, 64, FloatType::kBF16});
    EXPECT_GT(10 * std::log10(tensor.mlx_error / tensor.error), gain)
        << bits << " bits";
  }
}

TEST(Affine, ClipsAnOutlierThatNothingReads) {
  const std::int64_t N = 16, K = 64;
  auto w = make_weights(Kind::kNormal, N, K, 12);
  std::vector<float> h(K, 1.0f);
  for (int n = 0; n < N; ++n) w[n * K + 9] = 40;
  h[9] = 0;
  const auto tensor = encode_affine(w, N, K, h, {4, 64, FloatType::kBF16});
  // The outlier makes MLX's steps an order of magnitude larger than needed.
  EXPECT_LT(tensor.error, tensor.mlx_error / 20);
}

TEST(Affine, GivesTheSameBytesWithAnyNumberOfThreads) {
  const std::int64_t N = 70, K = 512;
  const auto w = make_weights(Kind::kNormal, N, K, 13);
  const int threads = thread_count();
  set_thread_count(1);
  const auto one = encode_affine(w, N, K, {}, {4, 64, FloatType::kBF16});
  set_thread_count(3);
  const auto three = encode_affine(w, N, K, {}, {4, 64, FloatType::kBF16});
  set_thread_count(threads);
  EXPECT_EQ(one.weight, three.weight);
  EXPECT_EQ(one.scales, three.scales);
  EXPECT_EQ(one.biases, three.biases);
  EXPECT_EQ(one.error, three.error);
}

TEST(Affine, ARowDoesNotDependOnItsNeighbours) {
  const std::int64_t N = 21, K = 128;
  const auto w = make_weights(Kind::kHeavyTailed, N, K, 14);
  const auto all = encode_affine(w, N, K, {}, {3, 32, FloatType::kF16});
  const auto last =
      encode_affine({w.data() + 20 * K, K}, 1, K, {}, {3, 32, FloatType::kF16});
  const std::size_t words = K * 3 / 32;
  EXPECT_EQ(std::vector<std::uint32_t>(all.weight.end() - words, all.weight.end()),
            last.weight);
}

TEST(Affine, DecodesWhatMlxDecodes) {
  const std::int64_t N = 8, K = 256;
  const auto w = make_weights(Kind::kNormal, N, K, 15);
  for (int bits : kBits) {
    const AffineOptions options{bits, 64, FloatType::kF32};
    const auto tensor = encode_affine(w, N, K, {}, options);
    const auto parts = to_mlx(tensor);
    const auto mlx = floats_of(mx::dequantize(parts[0], parts[1], parts[2], 64, bits));
    const auto ours = decode_affine(tensor);
    for (std::size_t i = 0; i < w.size(); ++i)  // one rounding of the product apart
      ASSERT_NEAR(ours[i], mlx[i], 1e-6 * (1 + std::abs(mlx[i]))) << bits << " bits";
  }
}

TEST(Affine, NamesTheGroupThatHoldsANonFiniteWeight) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    auto w = make_weights(Kind::kNormal, 40, 128, 16);
    w[35 * 128 + 70] = bad;
    try {
      encode_affine(w, 40, 128, {}, {4, 64, FloatType::kBF16});
      FAIL() << "accepted " << bad;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("row 35, group 1"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Affine, RefusesWeightsThatMlxWouldStoreAsInfinity) {
  std::vector<float> w(64, 1e6f);
  w[3] = 2e6f;
  EXPECT_THROW(encode_affine(w, 1, 64, {}, {4, 64, FloatType::kF16, Search::kMlx}),
               std::invalid_argument);
  const auto tensor = encode_affine(w, 1, 64, {}, {4, 64, FloatType::kF16});
  for (float value : decode_affine(tensor)) EXPECT_TRUE(std::isfinite(value));
  EXPECT_TRUE(std::isinf(tensor.mlx_error));
}

TEST(Affine, RefusesBadShapesAndOptions) {
  const std::vector<float> w(128), bad_importance = {-1};
  const auto encode = [&](std::int64_t N, std::int64_t K, int bits, int group_size,
                          std::vector<float> h = {}) {
    encode_affine(w, N, K, h, {bits, group_size, FloatType::kBF16});
  };
  EXPECT_THROW(encode(2, 65, 4, 64), std::invalid_argument);
  EXPECT_THROW(encode(4, 32, 4, 64), std::invalid_argument);
  EXPECT_THROW(encode(2, 64, 7, 64), std::invalid_argument);
  EXPECT_THROW(encode(2, 64, 4, 48), std::invalid_argument);
  EXPECT_THROW(encode(-2, -64, 4, 64), std::invalid_argument);
  EXPECT_THROW(encode(2, 64, 4, 64, {1, 2}), std::invalid_argument);
  std::vector<float> h(64, 1);
  h[5] = -1;
  EXPECT_THROW(encode(2, 64, 4, 64, h), std::invalid_argument);
}

TEST(Affine, FlooredImportanceLeavesNoChannelAtZero) {
  EXPECT_EQ(floored(std::vector<float>{0, 4, 0, 4}, 0.5),
            (std::vector<float>{1, 4, 1, 4}));
  EXPECT_THROW(floored(std::vector<float>{NAN}), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::quantize
