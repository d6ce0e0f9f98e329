#include "optiq/kernels/kl_divergence/kl_divergence.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The textbook sum in long double.
double textbook(const float* a, const float* b, int vocab) {
  const auto log_sum = [&](const float* x) {
    long double sum = 0;
    const float largest = *std::max_element(x, x + vocab);
    for (int i = 0; i < vocab; ++i) sum += std::exp((long double)x[i] - largest);
    return largest + std::log(sum);
  };
  const long double p_sum = log_sum(a), q_sum = log_sum(b);
  long double kl = 0;
  for (int i = 0; i < vocab; ++i) {
    const long double p = std::exp(a[i] - p_sum);
    kl += p * ((a[i] - p_sum) - (b[i] - q_sum));
  }
  return static_cast<double>(kl);
}

struct Measured {
  double kl;
  bool same;
};

Measured measure(const std::vector<float>& a, const std::vector<float>& b) {
  Guarded<double> kl(1, -1);
  Guarded<std::uint8_t> same(1, 7);
  kl_divergence(guarded(a).data(), guarded(b).data(), 1, static_cast<int>(a.size()),
                kl.data(), same.data());
  return {kl[0], same[0] == 1};
}

TEST(KlDivergence, EveryTargetAgreesWithTheTextbookFromTinyToLarge) {
  for (int vocab : {1, 2, 7, 16, 100, 513, 5000})
    for (float noise : {1e-3f, 1e-2f, 0.3f, 2.0f, 20.0f}) {
      SCOPED_TRACE(::testing::Message() << vocab << " noise " << noise);
      const auto n = static_cast<std::size_t>(vocab);
      const auto a = random_floats(n, 1, 3.0f), e = random_floats(n, 2, noise);
      std::vector<float> b(n);
      // A constant added to all logits changes nothing.
      for (std::size_t i = 0; i < n; ++i) b[i] = a[i] + e[i] + 4.0f;
      const double expected = textbook(a.data(), b.data(), vocab);
      // Differences of logits near 16 err by 2^-20 at most once rounded to b, which is
      // given; d - c then by 2^-22. A term t^2 / 2 so errs by t 2^-22: by 2 sqrt(KL)
      // 2^-22 in all. Weights and f err by 1e-6 relative.
      const double tolerance = 1e-6 * expected + 5e-7 * std::sqrt(expected) + 1e-13;
      for_each_simd_target([&] { EXPECT_NEAR(measure(a, b).kl, expected, tolerance); });
    }
}

TEST(KlDivergence, IsExactlyZeroBetweenEqualsAndNeverNegative) {
  const auto a = random_floats(3000, 5, 4.0f);
  std::vector<float> shifted = a;
  for (float& x : shifted) x += 64.0f;
  for_each_simd_target([&] {
    EXPECT_EQ(measure(a, a).kl, 0.0);
    EXPECT_TRUE(measure(a, a).same);
    EXPECT_GE(measure(a, shifted).kl, 0.0);
    EXPECT_LE(measure(a, shifted).kl, 1e-10);
  });
}

TEST(KlDivergence, HoldsWhereExponentialsLeaveTheRangeOfFloat) {
  // All of q's mass is where p has e^-200, and the reverse.
  const std::vector<float> a{0, -200, -3, -500}, b{-300, 0, -299, -1};
  for_each_simd_target([&] {
    EXPECT_NEAR(measure(a, b).kl, textbook(a.data(), b.data(), 4), 1e-4);
    EXPECT_NEAR(measure(b, a).kl, textbook(b.data(), a.data(), 4), 1e-4);
  });
}

TEST(KlDivergence, CountsForbiddenTokensAsTheDefinitionDoes) {
  const std::vector<float> a{1, 2, -kInfinity, 0}, b{1, 2, -kInfinity, 0.5f};
  const std::vector<float> a3{1, 2, 0}, b3{1, 2, 0.5f};
  const std::vector<float> open{1, 2, 3, 0};
  const std::vector<float> nearly{1, 2, -30, 0};
  for_each_simd_target([&] {
    EXPECT_NEAR(measure(a, b).kl, textbook(a3.data(), b3.data(), 3), 1e-9);
    EXPECT_EQ(measure(open, a).kl, kInfinity);  // q forbids what p allows
    EXPECT_NEAR(measure(a, open).kl, textbook(nearly.data(), open.data(), 4), 1e-6);
  });
}

TEST(KlDivergence, KeepsNotANumberInItsRow) {
  auto a = random_floats(3 * 100, 1);
  const auto b = random_floats(3 * 100, 2);
  a[150] = std::nanf("");
  for_each_simd_target([&] {
    double kl[3];
    kl_divergence(a.data(), b.data(), 3, 100, kl, nullptr);
    EXPECT_TRUE(std::isfinite(kl[0]) && std::isfinite(kl[2]));
    EXPECT_TRUE(std::isnan(kl[1]));
  });
}

TEST(KlDivergence, TellsWhetherTheLikeliestTokensAgreeTheLowestOfEqualOnes) {
  std::vector<float> a(100, 0.0f), b(100, 0.0f);
  a[40] = a[77] = b[40] = b[90] = 3;
  for_each_simd_target([&] {
    EXPECT_TRUE(measure(a, b).same);
    b[39] = 3;
    EXPECT_FALSE(measure(a, b).same);
    b[39] = 0;
  });
}

TEST(KlDivergence, GivesTheSameBitsOnAnyNumberOfThreads) {
  const auto a = random_floats(40 * 1000, 1), b = random_floats(40 * 1000, 2);
  std::vector<double> one(40), five(40);
  const int before = thread_count();
  set_thread_count(1);
  kl_divergence(a.data(), b.data(), 40, 1000, one.data(), nullptr);
  set_thread_count(5);
  kl_divergence(a.data(), b.data(), 40, 1000, five.data(), nullptr);
  set_thread_count(before);
  EXPECT_EQ(one, five);
}

TEST(TokenNll, EveryTargetAgreesWithTheReference) {
  for (int vocab : {1, 15, 700, 4099}) {
    const auto x = guarded(random_floats(3 * static_cast<std::size_t>(vocab), 9, 5.0f));
    const auto targets = guarded(std::vector<int>{0, vocab / 2, vocab - 1});
    for_each_simd_target([&] {
      Guarded<double> nll(3);
      token_nll(x.data(), targets.data(), 3, vocab, nll.data());
      for (std::size_t i = 0; i < 3; ++i) {
        const float* row = x.data() + i * static_cast<std::size_t>(vocab);
        // Exponentials err by 2 ulp, their block sums by 16 additions in each lane.
        EXPECT_NEAR(nll[i], ref::log_sum_exp_row(row, vocab) - row[targets[i]], 4e-6);
      }
    });
  }
}

TEST(TokenNll, RefusesATargetThatIsNoToken) {
  const float x[2] = {0, 1};
  const int target = 2;
  double nll;
  EXPECT_THROW(token_nll(x, &target, 1, 2, &nll), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::kernels
