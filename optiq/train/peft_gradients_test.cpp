// Gradients against those of PyTorch with PEFT (scripts/golden/peft_gradients.py).
#include <gtest/gtest.h>

#include "mlx/io.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/load_adapter.h"
#include "optiq/models/registry.h"
#include "optiq/train/objective.h"

namespace optiq::train {
namespace {

const std::string kData = OPTIQ_SOURCE_DIR "/tests/data/golden/";

class PeftGradients : public ::testing::TestWithParam<const char*> {};

TEST_P(PeftGradients, AreOurs) {
  const std::string directory = kData + "peft_adapter-qwen3-" + GetParam();
  const auto model = models::load(kData + "qwen3");
  const auto adapter = adapters::load_adapter(directory, *model);
  const auto load = [&](const char* name) {
    return mx::load_safetensors(directory + "/" + name, mx::Device::cpu).first;
  };
  const auto expected = load("gradients.safetensors");
  const auto trained = load("adapter_model.safetensors");
  const bool dora = adapter->is_dora();
  std::vector<LoraModule> modules;
  for (const models::LinearModule* module : model->linears())
    if (const auto* factors = adapter->find(module->name))
      modules.push_back({module, factors->rank(), factors->scale});
  LoraParameters parameters(modules, {.dora = dora});
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const std::string path = "base_model.model." + modules[i].module->path;
    const auto* factors = adapter->find(modules[i].module->name);
    auto* values = &parameters.values()[i * (dora ? 3 : 2)];
    values[0] = mx::astype(factors->a, mx::float32);
    values[1] = mx::astype(factors->b, mx::float32);
    if (dora) values[2] = trained.at(path + ".lora_magnitude_vector");
  }
  mx::eval(parameters.values());
  mx::array ids = expected.at("input_ids"), expected_loss = expected.at("loss");
  mx::eval(ids, expected_loss);
  Example example;
  example.tokens.assign(ids.data<int>(), ids.data<int>() + ids.size());
  example.learnt.assign(ids.size(), 1);
  example.learnt[0] = 0;
  const Example* batch[] = {&example};
  std::vector<mx::array> gradients;
  Objective objective(*model, {kernels::Activation::kExact, false});
  const Loss loss = objective.gradients(batch, parameters, 0, gradients);
  EXPECT_NEAR(loss.mean(), expected_loss.item<float>(), 2e-5);
  std::size_t compared = 0;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const std::string path = "base_model.model." + modules[i].module->path;
    const auto* ours = &gradients[i * (dora ? 3 : 2)];
    const auto check = [&](const mx::array& mine, const std::string& name) {
      const mx::array& theirs = expected.at(path + name);
      const double size = mx::max(mx::abs(theirs)).item<float>();
      const double difference =
          mx::max(mx::abs(mx::astype(mine, mx::float32) - theirs)).item<float>();
      // Float sums of hundreds of terms, through four layers.
      EXPECT_LE(difference, 1e-4 * size + 1e-6) << path << name;
      ++compared;
    };
    check(ours[0], ".lora_A.weight");
    check(mx::transpose(ours[1]), ".lora_B.weight");
    if (dora) check(ours[2], ".lora_magnitude_vector");
  }
  EXPECT_EQ(compared + 2, expected.size());
}

INSTANTIATE_TEST_SUITE_P(Adapters, PeftGradients,
                         ::testing::Values("rank_alpha_pattern", "dora"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace optiq::train
