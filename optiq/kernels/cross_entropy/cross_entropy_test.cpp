#include "optiq/kernels/cross_entropy/cross_entropy.h"

#include "optiq/kernels/guarded.h"
#include "optiq/kernels/testing.h"

namespace optiq::kernels {
namespace {

using namespace optiq::testing;

TEST(CrossEntropy, EveryTargetAgreesWithTheDefinition) {
  for (const int vocab : {1, 7, 16, 100, 8192, 8197}) {
    const int rows = 5;
    const auto n = static_cast<std::size_t>(rows * vocab);
    const auto logits = random_floats(n, 1, 4.0f), weights = random_floats(rows, 2);
    std::vector<std::int32_t> targets;
    for (int r = 0; r < rows; ++r) targets.push_back(r * 37 % vocab);
    auto expected = logits;
    std::vector<float> expected_losses(rows);
    CrossEntropyArgs args{expected.data(),        targets.data(), weights.data(),
                          expected_losses.data(), rows,           vocab};
    ref::cross_entropy_rows(args, 0, rows);
    for_each_simd_target([&] {
      auto given = guarded(logits);
      std::vector<float> losses(rows);
      args.logits = given.data();
      args.losses = losses.data();
      args.gradient = true;
      cross_entropy(args);
      // A sum of vocab exponentials, each within a few roundings.
      const double tolerance = (8 + std::sqrt(double(vocab))) * kFloatEpsilon * 16;
      EXPECT_LE(max_abs_difference(losses, expected_losses), tolerance);
      EXPECT_LE(max_abs_difference(given, expected), tolerance);
      std::copy(logits.begin(), logits.end(), given.begin());
      args.gradient = false;
      cross_entropy(args);
      EXPECT_TRUE(std::equal(logits.begin(), logits.end(), given.begin()));
      EXPECT_LE(max_abs_difference(losses, expected_losses), tolerance);
    });
  }
}

TEST(CrossEntropy, LargeLogitsNeitherOverflowNorVanish) {
  for_each_simd_target([] {
    std::vector<float> logits(40, -3e38f), loss(1);
    logits[3] = 3e38f;
    const std::int32_t target = 3;
    const float weight = 1;
    cross_entropy({logits.data(), &target, &weight, loss.data(), 1, 40});
    EXPECT_EQ(loss[0], 0.0f);
    for (float gradient : logits) EXPECT_EQ(gradient, 0.0f);
  });
}

}  // namespace
}  // namespace optiq::kernels
