// The microscaling encoders against mx::quantize, and against a plain search.
#include "optiq/quantize/fp_formats.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "optiq/kernels/fp_values.h"
#include "optiq/quantize/testing.h"

namespace optiq::quantize {
namespace {

namespace mx = mlx::core;

const QuantMode kModes[] = {QuantMode::kMxfp4, QuantMode::kMxfp8, QuantMode::kNvfp4};
const FloatType kTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};

std::vector<mx::array> mlx_quantize(const mx::array& w, QuantMode mode) {
  return mx::quantize(w, std::nullopt, std::nullopt, name(mode));
}

double squared_error(const std::vector<float>& w, const std::vector<float>& h,
                     const std::vector<float>& decoded, std::int64_t begin,
                     std::int64_t end) {
  double sum = 0;
  for (std::int64_t i = begin; i < end; ++i)
    sum += h[i % h.size()] * std::pow(static_cast<double>(w[i]) - decoded[i], 2);
  return sum;
}

TEST(FpFormats, GiveTheBytesOfTheReferenceFile) {
  auto file = load_reference();
  const std::vector<float> w = floats_of(file.at("w"));
  for (QuantMode mode : kModes)
    for (FloatType type : kTypes) {
      const QuantSpec spec = fp_spec(mode);
      const std::string tensor = std::string(name(mode)) + ".b" +
                                 std::to_string(spec.bits) + ".g" +
                                 std::to_string(spec.group_size) + "." + mlx_name(type);
      SCOPED_TRACE(tensor);
      const auto ours = encode_fp(w, 16, 384, {}, {mode, type, Search::kMlx});
      EXPECT_EQ(bytes_of(file.at(tensor + ".weight")), as_bytes(ours.weight));
      EXPECT_EQ(bytes_of(file.at(tensor + ".scales")), ours.scales);
    }
}

TEST(FpFormats, GiveTheBytesOfMlxOnEveryKindOfGroup) {
  for (Kind kind : kKinds)
    for (QuantMode mode : kModes)
      for (FloatType type : kTypes) {
        SCOPED_TRACE(std::string(name(mode)) + " kind " +
                     std::to_string(static_cast<int>(kind)) + " " + mlx_name(type));
        auto w = make_weights(kind, 23, 192, 3);
        for (float& value : w) value = rounded(value, type);
        const auto ours = encode_fp(w, 23, 192, {}, {mode, type, Search::kMlx});
        const auto mlx = mlx_quantize(to_mlx(w, 23, 192, type), mode);
        EXPECT_EQ(bytes_of(mlx[0]), as_bytes(ours.weight));
        EXPECT_EQ(bytes_of(mlx[1]), ours.scales);
      }
}

TEST(FpFormats, DecodeWhatMlxDecodes) {
  for (QuantMode mode : kModes) {
    const auto w = make_weights(Kind::kHeavyTailed, 8, 256, 4);
    const auto parts = mlx_quantize(to_mlx(w, 8, 256, FloatType::kF32), mode);
    const auto ours = encode_fp(w, 8, 256, {}, {mode, FloatType::kF32, Search::kMlx});
    const auto mlx =
        floats_of(mx::dequantize(parts[0], parts[1], std::nullopt, std::nullopt,
                                 std::nullopt, name(mode), std::nullopt, mx::float32));
    EXPECT_EQ(decode_fp(ours), mlx) << name(mode);
  }
}

TEST(FpFormats, SearchIsNeverWorseThanMlxInAnyGroup) {
  for (Kind kind : kAnyKinds)
    for (QuantMode mode : kModes) {
      SCOPED_TRACE(std::string(name(mode)) + " kind " +
                   std::to_string(static_cast<int>(kind)));
      const std::int64_t N = 17, K = 192;
      const auto w = make_weights(kind, N, K, 5);
      const auto h = make_importance(K, 6);
      const auto ours = encode_fp(w, N, K, h, {mode, FloatType::kF32});
      const auto mlx = encode_fp(w, N, K, h, {mode, FloatType::kF32, Search::kMlx});
      const auto a = decode_fp(ours), b = decode_fp(mlx);
      const int size = ours.spec.group_size;
      for (std::int64_t i = 0; i < N * K; i += size) {
        const double error = squared_error(w, h, a, i, i + size);
        ASSERT_TRUE(std::isfinite(error));
        // Scale times value is exact in float but for subnormals.
        ASSERT_LE(error, squared_error(w, h, b, i, i + size) * (1 + 1e-12) + 1e-88);
      }
    }
}

TEST(FpFormats, SearchLowersTheErrorByWhatIsClaimed) {
  // A tenth of a dB or so under docs/decisions/rounding.md.
  const auto w = make_weights(Kind::kNormal, 256, 512, 7);
  const std::pair<QuantMode, double> claims[] = {
      {QuantMode::kMxfp4, 0.25}, {QuantMode::kMxfp8, 0.03}, {QuantMode::kNvfp4, 0.8}};
  for (auto [mode, gain] : claims) {
    const auto tensor = encode_fp(w, 256, 512, {}, {mode});
    const double decibels = 10 * std::log10(tensor.mlx_error / tensor.error);
    EXPECT_GE(decibels, gain) << name(mode);
  }
}

TEST(FpFormats, SmallFloatsSurviveTheWayThereAndBack) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;  // NaN
    EXPECT_EQ(float_to_e4m3(e4m3_to_float(code)), code);
  }
  for (int code = 0; code < 16; ++code)
    EXPECT_EQ(float_to_e2m1(kE2m1Values[code]), code % 8 ? code : 0);
  EXPECT_EQ(float_to_e4m3(1e9f), 0x7e);
  EXPECT_EQ(float_to_e4m3(-460.0f), 0xfe);
  EXPECT_EQ(float_to_e2m1(-100.0f), 15);
}

TEST(FpFormats, NameTheGroupThatHoldsANonFiniteWeight) {
  auto w = make_weights(Kind::kNormal, 40, 128, 8);
  w[35 * 128 + 70] = std::numeric_limits<float>::quiet_NaN();
  try {
    encode_fp(w, 40, 128, {}, {QuantMode::kNvfp4});
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("row 35, group 4"), std::string::npos)
        << error.what();
  }
}

TEST(FpFormats, RefuseBadShapesAndModes) {
  const std::vector<float> w(96);
  EXPECT_THROW(encode_fp(w, 2, 48, {}, {QuantMode::kMxfp4}), std::invalid_argument);
  EXPECT_THROW(encode_fp(w, 1, 64, {}, {QuantMode::kMxfp4}), std::invalid_argument);
  EXPECT_THROW(encode_fp(w, 1, 96, {}, {QuantMode::kAffine}), std::invalid_argument);
  EXPECT_THROW(encode_fp(w, 1, 96, std::vector<float>(3), {QuantMode::kMxfp4}),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::quantize
