#include "optiq/cache/turbo_quant_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"

namespace optiq::cache {
namespace {

mx::array normal(const mx::Shape& shape, std::uint64_t seed) {
  mx::array x = mx::random::normal(shape, mx::float32, mx::random::key(seed));
  mx::eval(x);
  return x;
}

double number(const mx::array& x) {
  mx::array value = x;
  mx::eval(value);
  return value.item<float>();
}

// Relative squared error of the decoded vectors, [n_kv_heads, T, D] against [T, n, D].
double error_of(const mx::array& decoded, const mx::array& original) {
  const mx::array x = mx::transpose(original, {1, 0, 2});
  return number(mx::sum(mx::square(decoded - x)) / mx::sum(mx::square(x)));
}

constexpr int kTokens = 300, kHeads = 2;
const kernels::AttentionOptions kOptions{.scale = 0.1f};

// The errors of Lloyd-Max on N(0, 1), 0.1175, 0.0345 and 0.0095, are what rotation
// makes of any vector, up to the spread of 600 vectors (a few per cent) and the integer
// codebook; a least-squares scale does no worse than that, an unbiased one a tenth.
TEST(TurboQuantCache, DecodesWithTheErrorOfItsCodebookWhateverTheVectorsAre) {
  const double expected[] = {0.1175, 0.0345, 0.0095};
  for (const int head_dim : {64, 96, 128, 256})
    for (const int bits : {2, 3, 4}) {
      SCOPED_TRACE(testing::Message() << head_dim << " " << bits);
      TurboQuantCache cache(head_dim, bits, 7);
      // A few large channels, as keys have.
      const mx::array channels = mx::where(mx::less(mx::arange(head_dim), mx::array(3)),
                                           mx::array(20.0f), mx::array(1.0f));
      const mx::array k = normal({kTokens, kHeads, head_dim}, 1) * channels;
      const mx::array v = normal({kTokens, kHeads, head_dim}, 2);
      cache.attend(normal({kTokens, kHeads, head_dim}, 3), k, v, kOptions);
      EXPECT_EQ(cache.length(), kTokens);
      const auto [keys, values] = cache.fetch();
      const double d = expected[bits - 2];
      EXPECT_LE(error_of(keys, k), 1.25 * d);
      EXPECT_LE(error_of(values, v), 1.15 * d);
      EXPECT_GE(error_of(values, v), 0.7 * d);
    }
}

TEST(TurboQuantCache, TheSeedDecidesTheCodesAndNothingElseDoes) {
  const mx::array q = normal({5, 4, 64}, 1), k = normal({5, 2, 64}, 2),
                  v = normal({5, 2, 64}, 3);
  const auto decoded = [&](std::uint64_t seed) {
    TurboQuantCache cache(64, 3, seed);
    cache.attend(q, k, v, kOptions);
    return cache.fetch().first;
  };
  EXPECT_EQ(number(mx::max(mx::abs(decoded(1) - decoded(1)))), 0);
  EXPECT_GT(number(mx::max(mx::abs(decoded(1) - decoded(2)))), 0);
}

TEST(TurboQuantCache, AttendsToWhatItDecodes) {
  TurboQuantCache cache(64, 4, 1);
  const mx::array q = normal({70, 4, 64}, 1), k = normal({70, 2, 64}, 2),
                  v = normal({70, 2, 64}, 3);
  kernels::AttentionOptions options = kOptions;
  options.activation = kernels::Activation::kExact;
  const mx::array y = cache.attend(q, k, v, options);
  const auto [keys, values] = cache.fetch();
  const kernels::Segment segment{70, 0};
  const mx::array expected =
      kernels::attention(q, mx::transpose(keys, {1, 0, 2}),
                         mx::transpose(values, {1, 0, 2}), {&segment, 1}, options);
  // Sums of 64 products and of 70 weights in another order and basis: each errs by at
  // most (64 + 70) eps of values that reach 5.
  EXPECT_LE(number(mx::max(mx::abs(y - expected))), 5 * 134 * 6e-8 * 2);
}

TEST(TurboQuantCache, GoesBackAndRefusesWhatIsNotThere) {
  TurboQuantCache cache(64, 4, 1);
  EXPECT_THROW(cache.truncate(1), std::invalid_argument);
  const mx::array q = normal({70, 4, 64}, 1), k = normal({70, 2, 64}, 2);
  cache.attend(q, k, k, kOptions);
  cache.truncate(3);
  EXPECT_EQ(cache.length(), 3);
  EXPECT_THROW(cache.truncate(4), std::invalid_argument);
  EXPECT_THROW(cache.attend(q, normal({70, 3, 64}, 1), k, kOptions),
               std::invalid_argument);
  EXPECT_THROW(cache.attend(q, normal({70, 2, 32}, 1), k, kOptions),
               std::invalid_argument);
  EXPECT_THROW(TurboQuantCache(64, 5, 1), std::invalid_argument);
  EXPECT_THROW(TurboQuantCache(0, 4, 1), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::cache
