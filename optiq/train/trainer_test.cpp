#include "optiq/train/trainer.h"

#include <gtest/gtest.h>

#include <random>

#include "optiq/adapters/load_adapter.h"
#include "optiq/adapters/mount.h"
#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::train {
namespace {

namespace fs = std::filesystem;
using checkpoint::TemporaryDirectory;

// A pattern that is soon learnt: each token is the one before plus three.
std::vector<Example> examples(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Example> all;
  for (int i = 0; i < n; ++i) {
    Example example;
    int token = static_cast<int>(random() % 100);
    for (int t = 0; t < 12; ++t, token = (token + 3) % 100) {
      example.tokens.push_back(token);
      example.learnt.push_back(t > 0);
    }
    all.push_back(example);
  }
  return all;
}

class Training : public ::testing::Test {
 protected:
  Training()
      : model_(load(OPTIQ_SOURCE_DIR "/tests/data/golden/mlx_quant-qwen3-q4_g64",
                    {.text = false})) {}

  TrainOptions options(const std::string& name, int iters) const {
    TrainOptions o;
    o.base_model = "base";
    o.output = directory_ / name;
    o.ranks = {RankScaling::kConstant, 4};
    o.scale = 2;
    o.iters = iters;
    o.batch_size = 4;
    o.schedule.peak = 5e-3;
    o.seed = 7;
    o.steps_per_report = 4;
    o.steps_per_eval = 4;
    o.steps_per_save = 8;
    return o;
  }
  TrainResult run(const TrainOptions& o) {
    return train(model_, examples(32, 1), examples(8, 2), {}, o, {});
  }

  LoadedModel model_;
  TemporaryDirectory directory_;
};

TEST_F(Training, TheLossFallsAndTheAdapterLoadsAsItWasTrained) {
  const TrainResult result = run(options("a", 24));
  EXPECT_LT(result.val_loss.back().second, 0.5 * result.val_loss.front().second);
  const auto loaded = adapters::load_adapter(directory_ / "a", *model_.model);
  EXPECT_NEAR(mean_loss(model_, examples(8, 2), loaded, {}, 4, -1),
              result.val_loss.back().second, 1e-5);
  EXPECT_EQ(loaded->modules.size(), result.ranks.size());
}

TEST_F(Training, BothFormsOfTheFilesGiveTheSame) {
  TrainOptions o = options("a", 8);
  o.ranks = {RankScaling::kByGrad, 4};
  o.gradient_batches = 2;
  run(o);
  const auto peft = adapters::load_adapter(directory_ / "a", *model_.model);
  EXPECT_EQ(peft->form, "peft");
  fs::create_directory(directory_ / "mlx");
  auto config = checkpoint::read_json_object(directory_ / "a/adapter_config.json");
  config.erase("peft_type");
  checkpoint::write_text(directory_ / "mlx/adapter_config.json", config.dump());
  fs::copy(directory_ / "a/adapters.safetensors", directory_ / "mlx");
  const auto mlx = adapters::load_adapter(directory_ / "mlx", *model_.model);
  EXPECT_EQ(mlx->form, "mlx");
  const auto data = examples(8, 2);
  EXPECT_NEAR(mean_loss(model_, data, peft, {kernels::Activation::kExact}, 4, -1),
              mean_loss(model_, data, mlx, {kernels::Activation::kExact}, 4, -1), 1e-5);
}

TEST_F(Training, ARunThatGoesOnIsTheOneThatNeverStopped) {
  TrainOptions o = options("whole", 24);
  o.schedule.decay = Decay::kCosine;
  o.schedule.steps = 24;
  o.schedule.warmup = 3;
  o.lora.dropout = 0.1f;
  o.accumulate = 2;
  const TrainResult whole = run(o);
  o.output = directory_ / "parts";
  o.iters = 11;
  run(o);
  o.iters = 24;
  o.resume = true;
  const TrainResult parts = run(o);
  ASSERT_FALSE(parts.val_loss.empty());
  for (const auto& [step, loss] : whole.val_loss) {
    if (step <= 11) continue;
    bool found = false;
    for (const auto& [other_step, other] : parts.val_loss)
      if (other_step == step) {
        EXPECT_EQ(other, loss) << step;  // to the last bit
        found = true;
      }
    EXPECT_TRUE(found) << step;
  }
  const auto bytes = [&](const char* name) {
    return checkpoint::read_text(directory_ / name / "adapter_model.safetensors");
  };
  EXPECT_EQ(bytes("whole"), bytes("parts"));
}

TEST_F(Training, AnotherRunIsNotGoneOnWith) {
  TrainOptions o = options("a", 4);
  run(o);
  o.resume = true;
  o.iters = 8;
  o.schedule.peak = 1e-4;
  checkpoint::expect_mentions(
      checkpoint::message_of<std::invalid_argument>([&] { run(o); }),
      {"--resume", "learning_rate"});
  o.output = directory_ / "nothing";
  EXPECT_THROW(run(o), CheckpointError);
}

TEST_F(Training, AnInterruptSavesWhatWasLearnt) {
  TrainOptions o = options("a", 1000);
  o.steps_per_save = 1000;
  TrainListener listener;
  listener.report = [](const Report& r) {
    if (r.step == 4) request_interrupt();
  };
  EXPECT_THROW(train(model_, examples(32, 1), {}, {}, o, listener), Interrupted);
  clear_interrupt();
  o.resume = true;
  o.iters = 6;
  EXPECT_EQ(run(o).steps, 6);
}

TEST_F(Training, StopsEarlyAndKeepsTheBest) {
  TrainOptions o = options("a", 400);
  o.patience = 2;
  o.steps_per_eval = 2;
  o.schedule.peak = 0.05;  // so large that it soon gets worse
  const TrainResult result = run(o);
  EXPECT_TRUE(result.stopped_early);
  EXPECT_LT(result.steps, 400);
  double best = 1e9;
  for (const auto& [step, loss] : result.val_loss)
    if (step > 0) best = std::min(best, loss);
  const auto loaded = adapters::load_adapter(directory_ / "a", *model_.model);
  EXPECT_NEAR(mean_loss(model_, examples(8, 2), loaded, {}, 4, -1), best, 1e-5);
}

TEST_F(Training, DoraBeginsAtTheBaseAndIsLoadedAgain) {
  TrainOptions o = options("a", 8);
  o.lora.dora = true;
  const TrainResult result = run(o);
  EXPECT_NEAR(result.val_loss.front().second,
              mean_loss(model_, examples(8, 2), nullptr, {}, 4, -1), 1e-4);
  const auto loaded = adapters::load_adapter(directory_ / "a", *model_.model);
  EXPECT_TRUE(loaded->is_dora());
  EXPECT_NEAR(mean_loss(model_, examples(8, 2), loaded, {}, 4, -1),
              result.val_loss.back().second, 1e-4);
}

TEST_F(Training, TargetsThatAreNotThereAreNamed) {
  TrainOptions o = options("a", 4);
  o.targets = {"q_proj", "w1"};
  checkpoint::expect_mentions(
      checkpoint::message_of<std::invalid_argument>([&] { run(o); }), {"w1", "q_proj"});
  o.targets = {"q_proj", "down_proj"};
  o.num_layers = 2;
  EXPECT_EQ(run(o).ranks.size(), 4u);
}

}  // namespace
}  // namespace optiq::train
