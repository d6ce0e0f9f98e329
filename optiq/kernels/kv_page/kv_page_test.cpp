#include "optiq/kernels/kv_page/kv_page.h"

#include <cmath>
#include <stdexcept>

#include "optiq/kernels/kv_page/kv_codebook.h"
#include "optiq/kernels/kv_page/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

// Mean squared error of each of a Gaussian's values, in units of its variance.
double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, square = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i]) - y[i], 2);
    square += std::pow(static_cast<double>(x[i]), 2);
  }
  return error / square;
}

// Rows of head 0 in `data`.
std::vector<float> head_rows(const KvData& data, bool keys, int head, int first,
                             int count) {
  const std::vector<float>& all = keys ? data.k : data.v;
  std::vector<float> rows;
  for (int t = first; t < first + count; ++t)
    for (int i = 0; i < data.head_dim; ++i)
      rows.push_back(all[static_cast<std::size_t>(
          (t * data.n_kv_heads + head) * data.head_dim + i)]);
  return rows;
}

TEST(KvFormat, ComesBackFromItsNameBitsAndGroup) {
  for (const KvFormat& format : all_kv_formats())
    EXPECT_EQ(kv_format(name(format), format.bits, format.group_size), format)
        << describe(format);
  EXPECT_EQ(describe(kv_format("affine", 4, 64)), "affine 4-bit group 64");
  EXPECT_EQ(describe(kv_format("turbo", 3, 64)), "turbo 3-bit");
  EXPECT_EQ(describe(kv_format("bf16", 0, 0)), "bf16");
}

TEST(KvFormat, RefusesWhatThereIsNotWithOneLine) {
  const auto message = [](std::string_view name, int bits, int group_size) {
    try {
      kv_format(name, bits, group_size);
    } catch (const std::invalid_argument& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(
      message("int4", 4, 64),
      "there is no KV cache format int4; there are f32, f16, bf16, affine, turbo, "
      "turbo-qjl");
  EXPECT_EQ(message("affine", 7, 64),
            "a KV cache in affine takes 2, 3, 4, 5, 6, 8 bits, not 7");
  EXPECT_EQ(message("affine", 4, 48),
            "a KV cache in affine takes groups of 32, 64, 128, not 48");
  EXPECT_EQ(message("turbo", 8, 0), "a KV cache in turbo takes 2, 3, 4 bits, not 8");
}

TEST(KvLayout, CountsTheBytesOfCodesScalesAndBiases) {
  const auto bytes_per_token = [](const KvFormat& k, const KvFormat& v, int dim) {
    return static_cast<double>(make_kv_layout(1, dim, k, v).bytes()) / kPageTokens;
  };
  const KvFormat f16 = kv_float(FloatType::kF16), affine4 = kv_format("affine", 4, 64),
                 turbo3 = kv_format("turbo", 3, 0);
  EXPECT_EQ(bytes_per_token(f16, f16, 128), 512);
  EXPECT_EQ(bytes_per_token(affine4, affine4, 128), 2 * (64 + 8));
  EXPECT_EQ(bytes_per_token(turbo3, turbo3, 128), 2 * (48 + 2));
  EXPECT_EQ(bytes_per_token(affine4, f16, 64), 32 + 4 + 128);
  EXPECT_EQ(bytes_per_token(kv_format("turbo-qjl", 3, 0), turbo3, 128),
            48 + 4 + 48 + 2);
  // Padded to 96 and 80 channels.
  EXPECT_EQ(bytes_per_token(turbo3, turbo3, 80), 36 + 2 + 30 + 2);
}

TEST(KvLayout, KeepsEveryPartOnALineOfTheCache) {
  for (const KvFormat& k : all_kv_formats())
    for (int dim : {1, 40, 64, 80, 96, 128, 256, 1000}) {
      const KvLayout layout = make_kv_layout(3, dim, k, kv_format("affine", 3, 32));
      for (const KvSide* side : {&layout.k, &layout.v})
        for (std::int64_t at : {side->codes, side->scales, side->biases, side->bytes})
          EXPECT_EQ(at % 64, 0) << describe(k) << " " << dim;
    }
}

TEST(KvLayout, RefusesShapesAndFormatsThatThereAreNot) {
  const KvFormat f16 = kv_float(FloatType::kF16);
  EXPECT_THROW(make_kv_layout(0, 64, f16, f16), std::invalid_argument);
  EXPECT_THROW(make_kv_layout(1, 1025, f16, f16), std::invalid_argument);
  EXPECT_THROW(make_kv_layout(1, 64, {KvKind::kTurbo, FloatType::kF16, 5, 0}, f16),
               std::invalid_argument);
  EXPECT_THROW(make_kv_layout(1, 64, f16, kv_format("turbo-qjl", 4, 0)),
               std::invalid_argument);
  EXPECT_THROW(make_kv_layout(1, 64, f16, {KvKind::kAffine, FloatType::kF16, 4, 48}),
               std::invalid_argument);
}

TEST(KvTransform, KeepsLengthsAndComesBack) {
  for (int dim : {1, 2, 40, 64, 80, 96, 128, 192, 256}) {
    // Only stored in float32, so the transform's own rounding is seen: some 2 log2(dim)
    // roundings of values below 5 in size, each way.
    const KvFormat f32 = kv_float(FloatType::kF32);
    const KvData data(70, 2, dim, 3);
    for_each_simd_target([&] {
      PagedSequence pages(2, dim, {f32, f32, true, true}, 0, 70, data.mean);
      pages.append(data, 0, 70);
      for (int head : {0, 1})
        for (bool keys : {false, true}) {
          const auto original = head_rows(data, keys, head, 0, 70);
          EXPECT_LE(max_abs_difference(pages.read(keys, head, 0, 70), original),
                    20 * 8 * kFloatEpsilon)
              << dim;
          if (keys) continue;
          const auto rotated = pages.read(keys, head, 0, 70, false);
          double a = 0, b = 0;
          for (std::size_t i = 0; i < original.size(); ++i) {
            a += original[i] * original[i];
            b += rotated[i] * rotated[i];
          }
          EXPECT_NEAR(a, b, 1e-5 * a);
        }
    });
  }
}

TEST(KvTransform, SpreadsOneChannelOverItsBlock) {
  const KvFormat f32 = kv_float(FloatType::kF32);
  KvData data(1, 1, 96, 3);
  std::ranges::fill(data.v, 0.0f);
  data.v[70] = 8.0f;
  PagedSequence pages(1, 96, {f32, f32, true, false}, 0, 1, data.mean);
  pages.append(data, 0, 1);
  const auto rotated = pages.read(false, 0, 0, 1, false);
  for (std::size_t i = 0; i < 96; ++i)
    EXPECT_NEAR(std::abs(rotated[i]), i < 64 ? 0.0f : 8.0f / std::sqrt(32.0f), 1e-6)
        << i;
}

// Half a step, in the units of the format's own scale, is what a code can be off, as
// long as nothing is clipped; clipping is only chosen where it lowers the squared
// error.
TEST(KvPage, ComesBackWithinTheErrorOfMinMax) {
  for (const KvFormat& format : all_kv_formats()) {
    if (format.kind != KvKind::kAffine) continue;
    for (int dim : {40, 96, 128}) {
      SCOPED_TRACE(describe(format) + " " + std::to_string(dim));
      const KvData data(75, 2, dim, 5);
      for_each_simd_target([&] {
        PagedSequence pages(2, dim, {format, format}, 0, 75, data.mean);
        pages.append(data, 0, 75);
        for (bool keys : {false, true}) {
          const auto x = head_rows(data, keys, 1, 0, 75),
                     y = pages.read(keys, 1, 0, 75);
          for (int t = 0; t < 75; ++t)
            for (int begin = 0; begin < dim; begin += format.group_size) {
              const int n = std::min(format.group_size, dim - begin);
              const float* group = x.data() + t * dim + begin;
              const auto [low, high] = std::minmax_element(group, group + n);
              const double levels = (1 << format.bits) - 1;
              double error = 0;
              for (int i = 0; i < n; ++i)
                error += std::pow(
                    group[i] - y[static_cast<std::size_t>(t * dim + begin + i)], 2);
              // Rounding to float16 moves the scale by 2^-11 of itself, the bias by
              // 2^-11 of at most the range and the largest value.
              const double half = (*high - *low) / levels / 2;
              const double bias = 0x1p-11 * (*high - *low + std::abs(*low));
              EXPECT_LE(error,
                        n * std::pow(half * (1 + 0x1p-10 * levels) + 2 * bias, 2));
            }
        }
      });
    }
  }
}

TEST(KvPage, EveryTargetCodesAsWellAsTheReference) {
  for (const KvFormat& format : all_kv_formats()) {
    SCOPED_TRACE(describe(format));
    const KvData data(150, 1, 128, 5);
    double expected[2] = {};
    for (SimdTarget target : {SimdTarget::kScalar, simd_target()}) {
      force_simd_target(target);
      PagedSequence pages(1, 128, {format, format, true, true}, 0, 150, data.mean);
      pages.append(data, 0, 150);
      for (bool keys : {false, true}) {
        const double error = relative_error(head_rows(data, keys, 0, 0, 150),
                                            pages.read(keys, 0, 0, 150));
        // Choices between near-equal ranges and at ties may differ.
        if (target == SimdTarget::kScalar)
          expected[keys] = error;
        else
          EXPECT_NEAR(error, expected[keys], 1e-3 * expected[keys] + 1e-12);
      }
    }
    force_simd_target(std::nullopt);
  }
}

// D_mse(b) of the Lloyd-Max quantizer of N(0, 1), design of TurboQuant: rotated vectors
// of 128 values are near Gaussian, the least-squares scale takes off D^2, and the
// unbiased one adds as much.
TEST(KvPage, ReachesTheErrorOfTheoryForTurboCodes) {
  constexpr double kTheory[] = {0.11748, 0.03455, 0.00950};
  for (int bits : {2, 3, 4}) {
    const double d = kTheory[bits - 2];
    const KvFormat format = kv_format("turbo", bits, 0);
    const KvData data(512, 4, 128, 9);
    for_each_simd_target([&] {
      PagedSequence pages(4, 128, {format, format, true, true}, 0, 512, data.mean);
      pages.append(data, 0, 512);
      double values = 0, keys = 0, aligned = 0;
      for (int head = 0; head < 4; ++head) {
        values += relative_error(head_rows(data, false, head, 0, 512),
                                 pages.read(false, head, 0, 512)) /
                  4;
        auto x = head_rows(data, true, head, 0, 512),
             y = pages.read(true, head, 0, 512);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const float mean = data.mean[static_cast<std::size_t>(head) * 128 + i % 128];
          x[i] -= mean;
          y[i] -= mean;
        }
        keys += relative_error(x, y) / 4;
        double xy = 0, xx = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          xy += static_cast<double>(x[i]) * y[i];
          xx += static_cast<double>(x[i]) * x[i];
        }
        aligned += xy / xx / 4;
      }
      // 2048 vectors leave a standard error of 0.3 %. A vector of 128 values and known
      // length has lighter tails than a Gaussian (kurtosis 3 128/130), which takes off
      // some per cent.
      EXPECT_LE(values, 1.01 * d);
      EXPECT_GE(values, 0.95 * d);
      EXPECT_NEAR(keys, values / (1 - values), 0.01 * d);
      EXPECT_NEAR(aligned, 1, 1e-4);  // <k, stored k> = |k|^2 but for the stored scale
    });
  }
}

// Over rotations and projections. What the codebook alone says of <q, k> is short by D
// of it, far more than the mean of so many estimates is off; with the projection's
// signs nothing is left.
TEST(KvPage, QjlEstimatesInnerProductsWithoutBias) {
  constexpr double kTheory[] = {0.36338, 0.11748, 0.03455};  // D of one bit less
  constexpr int kSeeds = 4000, kDim = 64;
  const KvData data(1, 1, kDim, 21);
  const auto k = head_rows(data, true, 0, 0, 1);
  // Not the key itself, whose estimate the length makes exact, but much like it.
  std::vector<float> q = random_floats(kDim, 4);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = 0.5f * q[i] + k[i];
  double qk = 0, kk = 0;
  for (std::size_t i = 0; i < q.size(); ++i) {
    qk += static_cast<double>(q[i]) * k[i];
    kk += static_cast<double>(k[i]) * k[i];
  }
  for (int bits : {2, 3, 4}) {
    double sum = 0, squares = 0, error = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      const KvFormat format = kv_format("turbo-qjl", bits, 0);
      PagedSequence pages(1, kDim, {format, format, true, false}, 0, 1, data.mean,
                          static_cast<std::uint64_t>(seed));
      pages.append(data, 0, 1);
      const auto stored = pages.read(true, 0, 0, 1);
      double estimate = 0;
      for (std::size_t i = 0; i < q.size(); ++i) {
        estimate += static_cast<double>(q[i]) * stored[i];
        error += std::pow(static_cast<double>(stored[i]) - k[i], 2);
      }
      sum += estimate - qk;
      squares += std::pow(estimate - qk, 2);
    }
    const double mean = sum / kSeeds;
    const double mean_error = std::sqrt(squares / kSeeds / kSeeds);
    EXPECT_LE(std::abs(mean), 4 * mean_error) << bits;
    EXPECT_GE(kTheory[bits - 2] * qk, 8 * mean_error) << bits;
    // |S^T s|^2 is pi / 2 of the residual's square, and half of their product twice.
    EXPECT_NEAR(error / kSeeds / kk, (M_PI / 2 - 1) * kTheory[bits - 2],
                0.1 * kTheory[bits - 2])
        << bits;
  }
}

TEST(KvPage, RotationAndCentringTakeAwayWhatOutlierChannelsCost) {
  KvData data(256, 1, 128, 4);
  for (std::size_t i = 0; i < data.k.size(); ++i)
    if (i % 128 == 17 || i % 128 == 90) data.k[i] += 30;
  data.mean[17] += 30;
  data.mean[90] += 30;
  const auto error = [&](const char* name, bool rotated, bool centred) {
    const KvFormat format = kv_format(name, 4, 64);
    const KvKindOfLayer kind{format, format, rotated, centred};
    PagedSequence pages(1, 128, kind, 0, 256, data.mean);
    pages.append(data, 0, 256);
    const auto x = head_rows(data, true, 0, 0, 256), y = pages.read(true, 0, 0, 256);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(x[i] - y[i], 2);
    return sum / static_cast<double>(x.size());
  };
  const double plain = error("affine", false, false);
  EXPECT_LT(error("affine", true, false), 0.3 * plain);
  EXPECT_LT(error("affine", false, true), 0.05 * plain);
  EXPECT_LT(error("turbo", true, true), 0.05 * plain);
}

// Scales that undo the channels' sizes: every channel then loses its own share.
TEST(KvPage, ScaledChannelsLoseInProportion) {
  KvData data(256, 2, 128, 6);
  for (std::size_t i = 0; i < data.k.size(); ++i) data.k[i] -= data.mean[i % 256];
  for (float& value : data.mean) value = 4 * std::clamp(value, -3.0f, 3.0f);
  for (std::size_t i = 0; i < data.k.size(); ++i) {
    const float size = channel_size(data.mean[i % 256]);
    data.k[i] /= size;
    data.v[i] *= size;
  }
  const KvFormat format = kv_format("affine", 4, 64);
  // Of each head, relative to each channel's size, the mean squared error.
  const auto error = [&](bool keys, int head, bool scaled) {
    const KvKindOfLayer kind{format, format, false, false, scaled};
    PagedSequence pages(2, 128, kind, 0, 256, data.mean);
    pages.append(data, 0, 256);
    const auto x = head_rows(data, keys, head, 0, 256),
               y = pages.read(keys, head, 0, 256);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float size =
          channel_size(data.mean[static_cast<std::size_t>(head) * 128 + i % 128]);
      sum += std::pow((x[i] - y[i]) * (keys ? size : 1 / size), 2);
    }
    return sum / static_cast<double>(x.size());
  };
  for (const bool keys : {true, false})
    for (const int head : {0, 1}) {
      EXPECT_LT(error(keys, head, true), 0.3 * error(keys, head, false));
      EXPECT_LT(error(keys, head, true), 0.02);  // of normals in 4 bits
    }
}

TEST(KvPage, GivesATokenTheSameBytesHoweverTheRowsAreCut) {
  for (const KvFormat& format : all_kv_formats()) {
    const KvData data(200, 2, 96, 5);
    const KvKindOfLayer kind{format, format, true, true, true};
    for_each_simd_target([&] {
      PagedSequence whole(2, 96, kind, 1, 200, data.mean);
      PagedSequence parts(2, 96, kind, 1, 200, data.mean);
      whole.append(data, 0, 200);
      for (int at = 0, n = 1; at < 200; at += n, n = n % 7 + 1)
        parts.append(data, at, std::min(n, 200 - at));
      for (int head : {0, 1})
        for (bool keys : {false, true})
          EXPECT_EQ(max_abs_difference(whole.read(keys, head, 0, 200, false),
                                       parts.read(keys, head, 0, 200, false)),
                    0)
              << describe(format);
    });
  }
}

TEST(KvPage, WritesOverStaleTokensAsIfTheyHadNotBeen) {
  for (const KvFormat& format : all_kv_formats()) {
    const KvData data(128, 1, 64, 5), other(128, 1, 64, 50);
    for_each_simd_target([&] {
      PagedSequence fresh(1, 64, {format, format}, 0, 128, data.mean);
      PagedSequence reused(1, 64, {format, format}, 0, 128, data.mean);
      reused.append(other, 0, 128);
      fresh.append(data, 0, 70);
      reused.append(data, 0, 70);
      const auto bytes = [](const PagedSequence& s) {
        std::vector<float> all = s.read(true, 0, 0, 70);
        const auto v = s.read(false, 0, 0, 70);
        all.insert(all.end(), v.begin(), v.end());
        return all;
      };
      EXPECT_EQ(max_abs_difference(bytes(fresh), bytes(reused)), 0) << describe(format);
      // And the tokens behind are as they were.
      EXPECT_EQ(max_abs_difference(
                    reused.read(true, 0, 70, 58),
                    [&] {
                      PagedSequence old(1, 64, {format, format}, 0, 128, data.mean);
                      old.append(other, 0, 128);
                      return old.read(true, 0, 70, 58);
                    }()),
                0)
          << describe(format);
    });
  }
}

TEST(KvPage, KeepsValuesThatAreNotFiniteInTheirGroup) {
  for (const KvFormat& format : all_kv_formats()) {
    if (format.kind == KvKind::kFloat) continue;
    KvData data(3, 1, 128, 5);
    data.k[128 + 3] = std::nanf("");
    data.v[128 + 3] = HUGE_VALF;
    const int spoiled = format.group_size > 0 ? format.group_size : 128;
    for_each_simd_target([&] {
      PagedSequence pages(1, 128, {format, format}, 0, 3, data.mean);
      pages.append(data, 0, 3);
      for (bool keys : {false, true}) {
        const auto y = pages.read(keys, 0, 0, 3);
        for (int i = 0; i < 3 * 128; ++i)
          EXPECT_EQ(std::isnan(y[static_cast<std::size_t>(i)]),
                    i / 128 == 1 && i % 128 < spoiled)
              << describe(format) << " " << i;
      }
    });
  }
}

TEST(KvPage, CodesZerosAndTinyVectorsAsZerosNearby) {
  for (const KvFormat& format : all_kv_formats()) {
    KvData data(2, 1, 64, 5);
    std::ranges::fill(data.k, 0.0f);
    for (float& x : data.v) x *= 1e-20f;
    for_each_simd_target([&] {
      PagedSequence pages(1, 64, {format, format}, 0, 2, data.mean);
      pages.append(data, 0, 2);
      for (bool keys : {false, true})
        for (float y : pages.read(keys, 0, 0, 2))
          EXPECT_LE(std::abs(y), 1e-6) << describe(format);
    });
  }
}

}  // namespace
}  // namespace optiq::kernels
