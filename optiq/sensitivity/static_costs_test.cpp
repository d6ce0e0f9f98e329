// The guesses of the static method follow a module's place.
#include "optiq/sensitivity/static_costs.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/random.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;

TEST(StaticCosts, FollowTheModulesPlace) {
  const auto priority = [](const char* name) { return structural_priority(name, 24); };
  EXPECT_DOUBLE_EQ(priority("lm_head"), 1.0);
  EXPECT_DOUBLE_EQ(priority("model.embed_tokens"), 1.0);
  EXPECT_DOUBLE_EQ(priority("model.layers.0.mlp.up_proj"), 0.9);
  EXPECT_DOUBLE_EQ(priority("language_model.model.layers.23.mlp.up_proj"), 0.9);
  EXPECT_DOUBLE_EQ(priority("model.layers.22.mlp.up_proj"), 0.65);
  EXPECT_GT(priority("model.layers.3.mlp.up_proj"),
            priority("model.layers.11.mlp.up_proj"));
  EXPECT_NEAR(priority("model.layers.11.self_attn.q_proj") -
                  priority("model.layers.11.mlp.up_proj"),
              0.3, 1e-12);
  EXPECT_GT(priority("model.layers.11.mlp.gate"),
            priority("model.layers.11.mlp.gate_proj"));
  EXPECT_LT(priority("model.layers.11.mlp.switch_mlp.up_proj"),
            priority("model.layers.11.mlp.shared_expert.up_proj"));
}

TEST(StaticCosts, ProtectWhatLiesOutsideAndAtTheEdges) {
  EXPECT_TRUE(is_protected("lm_head", 8));
  EXPECT_TRUE(is_protected("model.layers.0.mlp.up_proj", 8));
  EXPECT_TRUE(is_protected("model.layers.7.mlp.up_proj", 8));
  EXPECT_FALSE(is_protected("model.layers.3.mlp.up_proj", 8));
  EXPECT_TRUE(is_protected("model.layers.3.mlp.gate", 8));
  EXPECT_FALSE(is_protected("model.layers.3.mlp.gate_proj", 8));
  EXPECT_TRUE(is_protected("model.layers.3.mlp.shared_expert.up_proj", 8));
  EXPECT_TRUE(is_protected("model.fewlayers.3.x", 8));
}

TEST(StaticCosts, FallWithBitsAndWithSmallerGroups) {
  double last = 1;
  for (int bits : {2, 3, 4, 5, 6, 8})
    for (int group_size : {128, 64, 32}) {
      const double cost = static_cost("model.layers.4.mlp.up_proj", 9,
                                      {QuantMode::kAffine, bits, group_size});
      EXPECT_LT(cost, last);
      last = cost;
    }
  EXPECT_EQ(static_cost("lm_head", 9, {QuantMode::kAffine, 16, 64}), 0);
  EXPECT_GT(static_cost("lm_head", 9, {QuantMode::kMxfp4, 4, 32}),
            static_cost("lm_head", 9, {QuantMode::kNvfp4, 4, 16}));
  EXPECT_THROW(static_cost("lm_head", 9, {QuantMode::kAffine, 7, 64}),
               std::invalid_argument);
}

// Against all rows of the matrix, of which a part is enough.
TEST(StaticCosts, TheErrorOfAMatrixIsThatOfItsOwnWeights) {
  const mx::array gaussian = mx::random::normal({3000, 512}, mx::random::key(7));
  const mx::array few = mx::astype(gaussian > 2.0f, mx::float32);  // 0 and 1: exact
  const QuantSpec spec{QuantMode::kAffine, 4, 64};
  const auto error = [&](const mx::array& w, const QuantSpec& s) {
    return relative_squared_error({w, {}, {}, {}, {}}, s, quantize::Search::kSearch);
  };
  EXPECT_NEAR(error(gaussian, spec) / relative_squared_error(spec), 1, 0.05);
  EXPECT_LT(error(few, spec), 1e-9);
  EXPECT_GT(error(gaussian, {QuantMode::kAffine, 3, 64}), 2 * error(gaussian, spec));
}

}  // namespace
}  // namespace optiq::sensitivity
