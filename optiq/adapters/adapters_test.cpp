#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <latch>
#include <thread>

#include "optiq/adapters/load_adapter.h"
#include "optiq/adapters/mount.h"
#include "optiq/adapters/peft_form.h"
#include "optiq/adapters/testing.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/testing.h"
#include "optiq/models/registry.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using checkpoint::expect_mentions;
using checkpoint::message_of;
using checkpoint::read_text;
using checkpoint::TemporaryDirectory;
using checkpoint::write_text;

const fs::path kData = OPTIQ_SOURCE_DIR "/tests/data/golden";

models::Model& qwen3() {
  static auto* const model = models::load(kData / "qwen3").release();
  return *model;
}

std::vector<float> answer(models::Model& model, const models::AdapterPtr& adapter) {
  models::Batch batch = models::uncached_batch({5}, kernels::Activation::kExact);
  if (adapter) batch.adapters = {adapter};
  const int ids[] = {1, 7, 3, 200, 9};
  const mx::array logits = model.head(
      model.hidden(mx::array(ids, {5}, mx::int32), batch), kernels::Activation::kExact);
  mx::eval(logits);
  return {logits.data<float>(), logits.data<float>() + logits.size()};
}

// The largest difference.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

TEST(Mounting, TheBaseIsUntouchedAndComesBack) {
  models::Model& model = qwen3();
  const auto base = answer(model, nullptr);
  mount(model, "a", kData / "peft_adapter-qwen3-rslora");
  {
    const AdapterActivation scope("a");
    EXPECT_GT(distance(answer(model, active_adapter(model)), base), 0.1);
    {
      const AdapterActivation none("base");
      EXPECT_EQ(answer(model, active_adapter(model)), base);
    }
    EXPECT_EQ(AdapterActivation::current(), "a");
  }
  EXPECT_EQ(active_adapter(model), nullptr);
  EXPECT_EQ(answer(model, nullptr), base);
  EXPECT_THROW(mount(model, "a", kData / "peft_adapter-qwen3-rslora"),
               std::invalid_argument);
  unmount(model, "a");
  EXPECT_THROW(unmount(model, "a"), std::invalid_argument);
}

TEST(Mounting, AnUnknownNameIsAnErrorThatNamesTheOthers) {
  models::Model& model = qwen3();
  model.mounts().add("one", random_adapter(model, 1));
  const AdapterActivation scope("two");
  expect_mentions(message_of<std::invalid_argument>([&] { active_adapter(model); }),
                  {"two", "one"});
  for (const char* name : {"", "base", "none", "off", "a+b", "a,b"})
    EXPECT_THROW(model.mounts().add(name, random_adapter(model, 1)),
                 std::invalid_argument);
  unmount(model, "one");
}

TEST(Mounting, AStackIsTheSumOfItsParts) {
  models::Model& model = qwen3();
  const auto a = random_adapter(model, 1, 2), b = random_adapter(model, 2, 3, true);
  model.mounts().add("a", a);
  model.mounts().add("b", b);
  const auto stack = model.mounts().find("a+b");
  EXPECT_EQ(stack, model.mounts().find("a+b"));  // made once
  const std::string name = "layers.1.mlp.down_proj";
  const auto product = [](const kernels::LowRank& f) {
    return f.scale * mx::matmul(mx::transpose(mx::astype(f.b, mx::float32)),
                                mx::astype(f.a, mx::float32));
  };
  EXPECT_TRUE(mx::allclose(product(*stack->find(name)),
                           product(*a->find(name)) + product(*b->find(name)), 1e-5,
                           1e-5)
                  .item<bool>());
  EXPECT_EQ(answer(model, stack), answer(model, model.mounts().find("a,b")));
  model.mounts().add("dora", random_adapter(model, 3, 2, false, true));
  EXPECT_THROW(model.mounts().find("a+dora"), std::invalid_argument);
  for (const char* id : {"a", "b", "dora"}) unmount(model, id);
}

TEST(Activation, SixteenThreadsWithNestedScopesSeeOnlyTheirOwn) {
  models::Model& model = qwen3();
  std::vector<models::AdapterPtr> adapters;
  for (unsigned i = 0; i < 4; ++i) {
    adapters.push_back(random_adapter(model, 10 + i));
    model.mounts().add("t" + std::to_string(i), adapters.back());
  }
  std::atomic<int> wrong = 0;
  std::latch start(16);
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t)
    threads.emplace_back([&, t] {
      start.arrive_and_wait();
      const auto own = static_cast<std::size_t>(t % 4);
      for (int round = 0; round < 200; ++round) {
        const AdapterActivation outer("t" + std::to_string(own));
        if (active_adapter(model) != adapters[own]) ++wrong;
        {
          const AdapterActivation inner("t" + std::to_string((own + 1) % 4));
          if (active_adapter(model) != adapters[(own + 1) % 4]) ++wrong;
          const AdapterActivation none("none");
          if (active_adapter(model)) ++wrong;
        }
        if (active_adapter(model) != adapters[own]) ++wrong;
        if (round == 100) {  // what it starts inherits it
          std::thread(inheriting([&] {
            if (active_adapter(model) != adapters[own]) ++wrong;
          })).join();
          std::thread([&] {
            if (active_adapter(model)) ++wrong;
          }).join();
        }
        if (t == 0) {  // others come and go meanwhile
          model.mounts().add("guest", adapters[0]);
          model.mounts().remove("guest");
        }
      }
      if (active_adapter(model)) ++wrong;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  for (unsigned i = 0; i < 4; ++i) unmount(model, "t" + std::to_string(i));
}

// A copy of a good adapter, to be broken.
class Broken : public ::testing::Test {
 protected:
  explicit Broken(const char* good = "peft_adapter-qwen3-rank_alpha_pattern") {
    for (const auto& entry : fs::directory_iterator(kData / good))
      fs::copy(entry.path(), directory_ / entry.path().filename().string());
  }

  nlohmann::json config() const {
    return nlohmann::json::parse(read_text(directory_ / "adapter_config.json"));
  }
  void set(const char* key, const nlohmann::json& value) {
    auto changed = config();
    changed[key] = value;
    write_text(directory_ / "adapter_config.json", changed.dump());
  }
  std::string error() {
    return message_of<CheckpointError>(
        [&] { load_adapter(directory_.path(), qwen3()); });
  }

  TemporaryDirectory directory_;
};

TEST_F(Broken, SettingsWithAnotherEffectAreRefusedByName) {
  const auto good = config();
  for (const auto& [key, value] : std::vector<std::pair<const char*, nlohmann::json>>{
           {"peft_type", "IA3"},
           {"bias", "all"},
           {"fan_in_fan_out", true},
           {"modules_to_save", {"lm_head"}},
           {"lora_alpha", "much"},
           {"r", 0},
           {"rank_pattern", {{"(", 4}}},
           {"alpha_pattern", {{"q_proj", "x"}}}}) {
    write_text(directory_ / "adapter_config.json", good.dump());
    set(key, value);
    expect_mentions(error(), {"adapter_config.json", key});
  }
}

TEST_F(Broken, ARankThatTheConfigDoesNotGiveIsNamed) {
  set("rank_pattern", nlohmann::json::object());
  expect_mentions(error(),
                  {"adapter_model.safetensors", "lora_", "expected [8, ", "found"});
}

TEST_F(Broken, FilesThatAreMissingOrCutAreNamed) {
  const fs::path file = directory_ / "adapter_model.safetensors";
  fs::resize_file(file, fs::file_size(file) / 2);
  expect_mentions(error(), {"adapter_model.safetensors"});
  fs::remove(file);
  expect_mentions(error(), {"expected adapter_model.safetensors"});
  write_text(directory_ / "adapter_model.bin", "pickle");
  expect_mentions(error(), {"adapter_model.bin", "pickle"});
  fs::remove(directory_ / "adapter_config.json");
  expect_mentions(error(), {"adapter_config.json"});
}

TEST_F(Broken, TensorsForOtherModelsAreNamed) {
  using checkpoint::DataType;
  const std::string base = "base_model.model.model.layers.";
  const auto write = [&](std::vector<checkpoint::TensorEntry> entries) {
    write_tensors(directory_ / "adapter_model.safetensors", entries);
    return error();
  };
  set("rank_pattern", nlohmann::json::object());
  expect_mentions(
      write({{base + "99.mlp.up_proj.lora_A.weight", DataType::kF32, {8, 128}}}),
      {"layers.99.mlp.up_proj", "no linear layer"});
  expect_mentions(
      write({{base + "0.mlp.up_proj.lora_A.weight", DataType::kF32, {8, 64}},
             {base + "0.mlp.up_proj.lora_B.weight", DataType::kF32, {256, 8}}}),
      {"expected [8, 128]", "[8, 64]"});
  expect_mentions(
      write({{base + "0.mlp.up_proj.lora_A.weight", DataType::kF32, {8, 128}}}),
      {"up_proj", "lora_b"});
  expect_mentions(write({{base + "0.mlp.up_proj.weight", DataType::kF32, {256, 128}}}),
                  {"up_proj.weight", "LoRA"});
  expect_mentions(
      write({{"base_model.model.lm_head.lora_A.weight", DataType::kF32, {8, 128}}}),
      {"lm_head"});
}

TEST(PeftScales, TheFirstPatternThatFitsTheEndOfAPathWins) {
  const TemporaryDirectory directory;
  const fs::path file = directory / "adapter_config.json";
  write_text(file, R"({"peft_type":"LORA","r":8,"lora_alpha":16,"bias":"none",
    "rank_pattern":{"layers\\.1\\.mlp\\.up_proj":32,"up_proj":4},
    "alpha_pattern":{"up_proj":4,"layers.1.mlp.up_proj":100}})");
  const PeftScales scales(file);
  EXPECT_EQ(scales.rank("model.layers.1.mlp.up_proj"), 32);
  EXPECT_EQ(scales.rank("model.layers.2.mlp.up_proj"), 4);
  EXPECT_EQ(scales.rank("model.layers.11.mlp.up_proj"), 4);
  EXPECT_EQ(scales.rank("model.layers.1.mlp.gate_up_proj"), 8);  // no dot before it
  EXPECT_FLOAT_EQ(scales.scale("model.layers.1.mlp.up_proj"), 4.0f / 32);
  EXPECT_FLOAT_EQ(scales.scale("model.layers.1.self_attn.q_proj"), 2.0f);
}

}  // namespace
}  // namespace optiq::adapters
