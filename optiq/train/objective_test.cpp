// Gradients of whole models, of every kind of trained value, against finite
// differences.
#include "optiq/train/objective.h"

#include <gtest/gtest.h>

#include <random>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/models/registry.h"

namespace optiq::train {
namespace {

struct Case {
  const char* model;
  bool dora;
  bool checkpoint;
};

class Gradients : public ::testing::TestWithParam<Case> {
 protected:
  Gradients()
      : model_(models::load(OPTIQ_SOURCE_DIR "/tests/data/golden/" +
                            std::string(GetParam().model))),
        parameters_(modules(), {.dora = GetParam().dora, .seed = 1}),
        objective_(*model_, {kernels::Activation::kExact, GetParam().checkpoint}) {
    std::mt19937 random(2);
    for (const int n : {9, 14}) {
      Example example;
      for (int i = 0; i < n; ++i) {
        example.tokens.push_back(static_cast<int>(random() % 500));
        example.learnt.push_back(i > 3);
      }
      examples_.push_back(example);
    }
    for (const Example& example : examples_) batch_.push_back(&example);
    // Away from the start, where b and with it the gradient of a is zero.
    for (mx::array& value : parameters_.values()) {
      std::normal_distribution<float> normal(0, 0.05f);
      float* x = value.data<float>();
      for (std::size_t i = 0; i < value.size(); ++i) x[i] += normal(random);
    }
  }

  std::vector<LoraModule> modules() const {
    std::vector<LoraModule> all;
    for (const models::LinearModule* module : model_->linears())
      if (module->layer >= 0 && module->layer < model_->n_layers())
        all.push_back({module, 2 + static_cast<int>(all.size() % 2), 1.5f});
    return all;
  }

  // DoRA's lengths are constants to its gradients: here too, but for its magnitudes.
  double loss(const models::Adapter* lengths_of = nullptr) {
    const auto adapter = parameters_.adapter(parameters_.values());
    if (!lengths_of) return objective_.loss(batch_, adapter).mean();
    auto with_lengths = std::make_shared<models::Adapter>(*adapter);
    for (auto& [name, factors] : with_lengths->modules)
      factors.gain = lengths_of->find(name)->gain;
    return objective_.loss(batch_, with_lengths).mean();
  }

  std::unique_ptr<models::Model> model_;
  LoraParameters parameters_;
  Objective objective_;
  std::vector<Example> examples_;
  std::vector<const Example*> batch_;
};

// Along a random direction of each value's array: float32 losses tell a slope to some
// 1e-6 / step, and a step of that size leaves little of higher orders.
TEST_P(Gradients, AgreeWithFiniteDifferences) {
  std::vector<mx::array> gradients;
  const Loss whole = objective_.gradients(batch_, parameters_, 0, gradients);
  EXPECT_EQ(whole.tokens, 5 + 10);
  EXPECT_NEAR(whole.mean(), loss(), 1e-5);
  const auto names = parameters_.names();
  std::mt19937 random(3);
  double compared = 0;
  const auto start = parameters_.adapter(parameters_.values());
  for (std::size_t v = 0; v < gradients.size(); ++v) {
    const mx::array g = mx::contiguous(gradients[v]);
    mx::eval(g);
    const mx::array kept = parameters_.values()[v];
    std::vector<float> direction(kept.size());
    for (float& d : direction) d = random() % 2 ? 1.0f : -1.0f;
    const auto moved = [&](float step) {
      mx::array there = mx::zeros(kept.shape());
      mx::eval(there);
      for (std::size_t i = 0; i < kept.size(); ++i)
        there.data<float>()[i] = kept.data<float>()[i] + step * direction[i];
      parameters_.values()[v] = there;
      const bool fixed = GetParam().dora && !names[v].ends_with(".m");
      const double there_loss = loss(fixed ? start.get() : nullptr);
      parameters_.values()[v] = kept;
      return there_loss;
    };
    double expected = 0, size = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      expected += static_cast<double>(g.data<float>()[i]) * direction[i];
      size += std::abs(static_cast<double>(g.data<float>()[i]));
    }
    constexpr float kStep = 2e-4f;
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * double(kStep));
    EXPECT_NEAR(slope, expected, 6e-3 + 0.01 * size) << names[v];
    compared += size;
  }
  EXPECT_GT(compared, 1.0);  // there is something to compare
}

INSTANTIATE_TEST_SUITE_P(
    Models, Gradients,
    ::testing::Values(Case{"qwen3", false, false}, Case{"qwen3", true, false},
                      Case{"qwen3", false, true}, Case{"qwen2", false, false},
                      Case{"qwen3_5_text", false, false},
                      Case{"qwen3_5_text", true, true},
                      Case{"mlx_quant-qwen3-q4_g64", false, false},
                      Case{"mlx_quant-qwen3-mxfp8", false, false},
                      Case{"mlx_quant-qwen3_5_vlm-mixed", false, false}),
    [](const auto& info) {
      std::string name = info.param.model;
      std::replace(name.begin(), name.end(), '-', '_');
      return name + (info.param.dora ? "_dora" : "") +
             (info.param.checkpoint ? "_checkpoint" : "");
    });

}  // namespace
}  // namespace optiq::train
