// Logits and greedy continuations against those that Hugging Face transformers and
// mlx-lm computed in float32 from the same files (scripts/golden/shrink.py).
//
// OPTIQ_GOLDEN_DIR names another directory of fixtures, each a model with its
// golden.safetensors; those of architectures that optiq does not have are passed over.
// OPTIQ_GOLDEN_DEVICE=gpu computes on the GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "mlx/io.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/mount.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/config.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/generate/generate.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

constexpr auto kExact = kernels::Activation::kExact;

struct Fixture {
  std::string name;
  fs::path golden;
  fs::path model;
  bool has_adapter = false;  // in the golden's directory

  friend std::ostream& operator<<(std::ostream& out, const Fixture& fixture) {
    return out << fixture.name;
  }
};

bool is_known(const fs::path& model) {
  static const std::set<std::string> known = [] {
    const auto types = checkpoint::known_model_types();
    return std::set<std::string>(types.begin(), types.end());
  }();
  const auto config = checkpoint::read_json_object(model / "config.json");
  return known.contains(config.value("model_type", ""));
}

// The model that an adapter's config names, relative to it; in this copy of the
// fixtures directories of directories are one, joined by '-'.
fs::path base_of(const fs::path& adapter, const fs::path& root) {
  const auto config = checkpoint::read_json_object(adapter / "adapter_config.json");
  const std::string base =
      config.value("base_model_name_or_path", config.value("model", ""));
  if (fs::exists(adapter / base / "config.json")) return adapter / base;
  std::string name;
  for (const fs::path& part : fs::path(base))
    if (part != "..") name += (name.empty() ? "" : "-") + part.string();
  return root / name;
}

std::vector<Fixture> fixtures() {
  const char* chosen = std::getenv("OPTIQ_GOLDEN_DIR");
  const fs::path root =
      chosen ? fs::path(chosen) : fs::path(OPTIQ_SOURCE_DIR "/tests/data/golden");
  std::vector<Fixture> all;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.path().filename() != "golden.safetensors") continue;
    const fs::path directory = entry.path().parent_path();
    const std::string base = directory.filename().string();
    const bool has_adapter = fs::exists(directory / "adapter_config.json");
    // The trained models lie elsewhere.
    const fs::path model = has_adapter ? base_of(directory, root)
                           : fs::exists(directory / "config.json")
                               ? directory
                               : fs::path(OPTIQ_SOURCE_DIR "/models") / base;
    if (!fs::exists(model / "config.json") || !is_known(model)) continue;
    std::string name = directory.lexically_relative(root).string();
    std::ranges::replace_if(
        name, [](unsigned char c) { return !std::isalnum(c); }, '_');
    all.push_back({name, directory, model, has_adapter});
  }
  std::ranges::sort(all, {}, &Fixture::name);
  return all;
}

class Golden : public ::testing::TestWithParam<Fixture> {
 protected:
  void SetUp() override {
    const char* device = std::getenv("OPTIQ_GOLDEN_DEVICE");
    if (device && std::string(device) == "gpu") {
      setenv("MLX_ENABLE_TF32", "0", /*replace=*/0);  // as --device gpu does
      mx::set_default_device(mx::Device::gpu);
    }
    tensors_ = mx::load_safetensors((GetParam().golden / "golden.safetensors").string(),
                                    mx::Device::cpu)
                   .first;
    for (const auto& [name, array] : tensors_) {
      const auto dot = name.find('.');
      if (name.substr(dot) == ".input_ids") prompts_.insert(name.substr(0, dot));
    }
    ASSERT_FALSE(prompts_.empty());
    model_ = load(GetParam().model.string(), {.text = false});
    if (!GetParam().has_adapter) return;
    adapters::mount(*model_.model, "golden", GetParam().golden);
    activation_.emplace("golden");
  }

  // The fixture's own bound: a multiple of what float32 differs from float64 there. For
  // the trained models, which state none, 5e-4: float32 sums of a thousand terms err by
  // about 1e-5 of logits that reach 30.
  double tolerance() const {
    const fs::path file = GetParam().golden / "golden.json";
    const auto json = fs::file_size(file) > 0 && !is_list(file)
                          ? checkpoint::read_json_object(file)
                          : nlohmann::json::object();
    return json.value("suggested_tolerance_max_abs", 5e-4);
  }

  std::vector<int> ids(const std::string& name) const {
    const mx::array array = mx::astype(tensors_.at(name), mx::int32);
    mx::eval(array);
    return {array.data<int>(), array.data<int>() + array.size()};
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  const mx::array& tensor(const std::string& name) const { return tensors_.at(name); }

  std::unordered_map<std::string, mx::array> tensors_;
  std::set<std::string> prompts_;
  LoadedModel model_;
  std::optional<adapters::AdapterActivation> activation_;

 private:
  static bool is_list(const fs::path& file) {
    return read_file(file, 1 << 24).front() == '[';
  }
};

// The largest difference of two matrices of one shape.
double max_difference(const mx::array& a, const mx::array& b) {
  const mx::array difference =
      mx::max(mx::abs(mx::subtract(mx::astype(a, mx::float32), b)));
  mx::eval(difference);
  return difference.item<float>();
}

TEST_P(Golden, LogitsOfTheWholePromptAgree) {
  for (const std::string& prompt : prompts_) {
    SCOPED_TRACE(prompt);
    const std::vector<int> input = ids(prompt + ".input_ids");
    const mx::array& expected = tensor(prompt + ".logits");
    const int start =
        has(prompt + ".logits_start") ? ids(prompt + ".logits_start")[0] : 0;
    const int n = static_cast<int>(input.size());
    models::Batch batch = models::uncached_batch({n}, kExact);
    batch.adapters = {adapters::active_adapter(*model_.model)};
    const mx::array hidden =
        model_.model->hidden(mx::array(input.data(), {n}, mx::int32), batch);
    const mx::array logits = model_.model->head(
        mx::slice(hidden, {start, 0}, {start + expected.shape(0), hidden.shape(1)}),
        kExact);
    const double difference = max_difference(logits, expected);
    EXPECT_LE(difference, tolerance());
    RecordProperty(prompt, std::to_string(difference));
  }
}

TEST_P(Golden, LogitsThroughTheCacheAgree) {
  for (const std::string& prompt : prompts_) {
    SCOPED_TRACE(prompt);
    const std::vector<int> input = ids(prompt + ".input_ids");
    const mx::array& expected = tensor(prompt + ".logits");
    auto options = generation::exact_session();
    options.chunk = 32;  // several calls for every fixture
    generation::Session session(*model_.model, options);
    const mx::array last = session.feed(input);
    const int rows = expected.shape(0);
    EXPECT_LE(max_difference(last, mx::reshape(mx::slice(expected, {rows - 1, 0},
                                                         {rows, expected.shape(1)}),
                                               {-1})),
              tolerance());
  }
}

TEST_P(Golden, GreedyContinuationsAreIdentical) {
  for (const std::string& prompt : prompts_) {
    SCOPED_TRACE(prompt);
    const std::vector<int> expected =
        ids(has(prompt + ".greedy") ? prompt + ".greedy" : prompt + ".greedy_ids");
    Request request;
    request.prompt = ids(prompt + ".input_ids");
    request.max_tokens = static_cast<int>(expected.size());
    request.ignore_eos = true;
    request.exact = true;
    EXPECT_EQ(generate(model_, request).tokens, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden, ::testing::ValuesIn(fixtures()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace optiq
