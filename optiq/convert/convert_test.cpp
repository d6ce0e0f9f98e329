// The walk, on the demo model with a tiny calibration: measured, chosen, written, read.
#include "optiq/convert/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "mlx/ops.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/convert/inspect.h"
#include "optiq/convert/plan.h"
#include "optiq/convert/sidecars.h"
#include "optiq/models/registry.h"
#include "optiq/text/tokenizer.h"

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using nlohmann::json;

const fs::path kDemo = fs::path(OPTIQ_SOURCE_DIR) / "models/demo";

class Convert : public ::testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::temp_directory_path() /
            ("optiq-convert-test-" + std::to_string(::getpid()));
    fs::create_directories(work_);
  }
  void TearDown() override { fs::remove_all(work_); }

  Options options(const std::string& name) const {
    Options o;
    o.model = kDemo;
    o.model_name = "demo";
    o.output = work_ / name;
    o.candidate_bits = {4, 8};
    o.n_calibration = 2;
    o.calibration_length = 32;
    o.skip_baselines = true;
    return o;
  }

  Options compensated_options(int bits) const {
    Options o = options("compensated");
    o.method = Method::kUniform;
    o.candidate_bits = {bits};
    o.target_bpw = bits;
    o.compensate = true;
    return o;
  }

  static json read_json(const fs::path& file) {
    return json::parse(read_file(file, 1 << 24));
  }

  fs::path work_;
};

// Logits of a few tokens, in float32.
mx::array logits_of(const fs::path& directory,
                    const std::vector<int>& tokens = {5, 77, 1234, 8000, 42}) {
  const auto model = models::load(directory);
  const auto exact = kernels::Activation::kExact;
  const int n = static_cast<int>(tokens.size());
  const mx::array ids(tokens.data(), {n}, mx::int32);
  return model->head(model->hidden(ids, models::uncached_batch({n}, exact)), exact);
}

TEST_F(Convert, TheMeasuredModelIsWithinItsBudgetAndReadsBackAsPlanned) {
  const Result result = convert(options("mixed"));
  std::int64_t largest = 0, params = 0;
  for (const LayerResult& layer : result.layers) {
    largest = std::max(largest, layer.params);
    params += layer.params;
  }
  EXPECT_LE(result.bpw, 4.5);
  EXPECT_GT(result.bpw,
            4.5 - 4.0 * static_cast<double>(largest) / static_cast<double>(params));

  const Inspection inspection = inspect(work_ / "mixed");
  EXPECT_NEAR(inspection.bpw, result.bpw, 1e-9);
  EXPECT_EQ(inspection.bytes, result.bytes);
  EXPECT_EQ(inspection.params, result.params);
  ASSERT_EQ(inspection.layers.size(), result.layers.size());
  for (const InspectedLayer& layer : inspection.layers)
    EXPECT_TRUE(layer.sensitivity.has_value()) << layer.name;

  // Close to the original: what is written computes what was measured.
  const mx::array difference = logits_of(work_ / "mixed") - logits_of(kDemo);
  EXPECT_LT(mx::mean(mx::abs(difference)).item<float>(), 1.0f);
}

// A tiny fixture with the tokenizer that all of them share.
fs::path fixture_with_tokenizer(const std::string& name, const fs::path& work) {
  const fs::path golden = fs::path(OPTIQ_SOURCE_DIR) / "tests/data/golden";
  const fs::path directory = work / name;
  fs::create_directories(directory);
  for (const char* file :
       {"config.json", "generation_config.json", "model.safetensors"})
    fs::copy_file(golden / name / file, directory / file);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(golden / file, directory / file);
  return directory;
}

TEST_F(Convert, EveryFamilyIsMeasuredWrittenAndReadBack) {
  for (const char* name : {"gemma3_text", "gemma4_moe", "gemma4_text", "mistral",
                           "phi3_longrope", "qwen3_moe", "qwen3_5_moe_vlm"}) {
    SCOPED_TRACE(name);
    Options o = options(std::string("mixed-") + name);
    o.model = fixture_with_tokenizer(name, work_);
    o.candidate_bits = {6, 8};
    o.target_bpw = 7;
    const Result result = convert(o);
    const Inspection inspection = inspect(o.output);
    EXPECT_EQ(inspection.params, result.params);
    EXPECT_EQ(inspection.bytes, result.bytes);
    ASSERT_EQ(inspection.layers.size(), result.layers.size());
    for (const InspectedLayer& layer : inspection.layers)
      EXPECT_TRUE(layer.sensitivity.has_value()) << layer.name;
    // At seven bits, random weights keep nine tenths of what the logits say.
    std::vector<int> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(7 + i * 37 % 500);
    const mx::array original = logits_of(o.model, ids);
    const mx::array difference = logits_of(o.output, ids) - original;
    EXPECT_LT(mx::mean(mx::square(difference)).item<float>(),
              0.1f * mx::mean(mx::square(original)).item<float>());
  }
}

TEST_F(Convert, ExpertsAreWrittenAsMlxLmLoadsThem) {
  for (const auto& [name, prefix] :
       {std::pair("qwen3_moe", "model."),
        std::pair("qwen3_5_moe_vlm", "language_model.model.")}) {
    Options o = options(std::string("experts-") + name);
    o.model = fixture_with_tokenizer(name, work_);
    o.method = Method::kUniform;
    o.candidate_bits = {4};
    o.target_bpw = 4;
    o.compensate = false;
    convert(o);
    const auto written = checkpoint::Checkpoint::open(o.output);
    const std::string mlp = prefix + std::string("layers.0.mlp.");
    EXPECT_EQ(written.info(mlp + "switch_mlp.gate_proj.weight").shape,
              (std::vector<std::int64_t>{4, 128, 16}));
    EXPECT_EQ(written.info(mlp + "switch_mlp.down_proj.scales").shape,
              (std::vector<std::int64_t>{4, 128, 2}));
    for (const std::string& tensor : written.names())
      EXPECT_EQ(tensor.find(".experts."), std::string::npos) << tensor;
  }
}

// The squared change of what the experts' second matrices give, on text that neither
// was fitted to, given what the source's experts are given.
double change_of_experts(const fs::path& source, const fs::path& converted) {
  const auto original = models::load(source), coded = models::load(converted);
  std::map<std::string, const models::LinearModule*> by_name;
  for (const models::LinearModule* module : coded->linears())
    by_name[module->name] = module;
  double sum = 0;
  original->observe_experts([&](const models::LinearModule& down, int expert,
                                const mx::array& x) {
    const int N = down.weight.output_dim() / down.n_experts;
    const mx::array change = mx::astype(down.weight.weight, mx::float32) -
                             kernels::dequantized(by_name.at(down.name)->weight);
    const mx::array of_expert =
        mx::slice(change, {expert * N, 0}, {(expert + 1) * N, change.shape(1)});
    sum += mx::sum(mx::square(mx::matmul(x, mx::transpose(of_expert)))).item<float>();
  });
  std::vector<int> ids = text::Tokenizer::load(source).encode(
      read_file(fs::path(OPTIQ_SOURCE_DIR) / "CONTRIBUTING.md", 1 << 20));
  ids.resize(std::min<std::size_t>(ids.size(), 1000));
  const int n = static_cast<int>(ids.size());
  mx::eval(original->hidden(mx::array(ids.data(), {n}, mx::int32),
                            models::uncached_batch({n}, kernels::Activation::kExact)));
  return sum;
}

TEST_F(Convert, EachExpertMakesUpForTheErrorsOnWhatItIsGiven) {
  for (const auto& [name, left] :
       {std::pair("qwen3_moe", 0.9), std::pair("gemma4_moe", 0.97)}) {
    SCOPED_TRACE(name);
    Options o = compensated_options(4);
    o.model = fixture_with_tokenizer(name, work_);
    o.output = work_ / (std::string(name) + "-compensated");
    o.n_calibration = 24;
    o.calibration_length = 256;
    EXPECT_TRUE(convert(o).compensated);
    const double compensated = change_of_experts(o.model, o.output);
    o.output = work_ / (std::string(name) + "-plain");
    o.compensate = false;
    convert(o);
    EXPECT_LT(compensated, left * change_of_experts(o.model, o.output));
  }
}

TEST_F(Convert, TrainedScalesAreKeptWhereTheyAreBetter) {
  Options o = compensated_options(3);
  o.compensate = false;
  o.output = work_ / "plain";
  const Result plain = convert(o);
  EXPECT_FALSE(plain.kl_mean_undistilled);
  o.output = work_ / "distilled";
  o.distill_epochs = 3;
  o.n_calibration = 6;  // what is held out is another text
  const Result distilled = convert(o);
  ASSERT_TRUE(distilled.kl_mean_undistilled && distilled.kl_mean);
  EXPECT_LT(*distilled.kl_mean, *distilled.kl_mean_undistilled);
  // The codes are as they were, and what is on disk is what was measured.
  const auto a = checkpoint::Checkpoint::open(work_ / "plain");
  const auto b = checkpoint::Checkpoint::open(work_ / "distilled");
  int changed = 0;
  for (const std::string& name : a.names()) {
    const bool same = mx::array_equal(a.tensor(name), b.tensor(name)).item<bool>();
    EXPECT_TRUE(same || !name.ends_with(".weight")) << name;
    changed += !same;
  }
  EXPECT_GT(changed, 0);
}

TEST_F(Convert, WritesWhatMlxLmLoads) {
  Options o = options("mixed");
  o.method = Method::kStatic;
  convert(o);
  const json config = read_json(o.output / "config.json");
  EXPECT_EQ(config.at("model_type"), "qwen3_5");
  EXPECT_EQ(config.at("text_config").at("model_type"), "qwen3_5_text");
  EXPECT_EQ(config.at("quantization"), config.at("quantization_config"));
  const json index = read_json(o.output / "model.safetensors.index.json");
  const auto written = checkpoint::Checkpoint::open(o.output);
  EXPECT_EQ(index.at("weight_map").size(), written.names().size());
  for (const std::string& name : written.names()) {
    EXPECT_TRUE(index.at("weight_map").contains(name)) << name;
    EXPECT_TRUE(name.starts_with("language_model.model.")) << name;
  }
  // Sidecars must not look like weights, and the tokenizer comes along.
  for (const auto& entry : fs::directory_iterator(o.output)) {
    const bool is_weights = entry.path().extension() == ".safetensors";
    EXPECT_TRUE(!is_weights || entry.path().filename().string().starts_with("model"));
  }
  EXPECT_TRUE(fs::exists(o.output / "tokenizer.json"));
  EXPECT_TRUE(fs::exists(o.output / "chat_template.jinja"));
  EXPECT_EQ(read_json(o.output / "optiq/metadata.json").at("method"),
            "static_mixed_precision");
}

TEST_F(Convert, StaticRunsNoModelAndWritesTheSameWhetherOrNotItIsMeasuredLater) {
  Options o = options("blind");
  o.method = Method::kStatic;
  // No text to run on: it would be refused where it is read.
  o.calibration = work_ / "missing.jsonl";
  std::vector<std::string> stages;
  o.progress = [&](std::string_view stage, std::int64_t, std::int64_t) {
    if (stages.empty() || stages.back() != stage) stages.emplace_back(stage);
  };
  const Result blind = convert(o);
  EXPECT_EQ(stages, (std::vector<std::string>{"rounding errors", "writing"}));
  EXPECT_FALSE(blind.kl_mean.has_value());
  EXPECT_TRUE(read_json(o.output / "optiq/metadata.json").at("kl_mean").is_null());

  Options measured = options("seen");
  measured.method = Method::kStatic;
  measured.skip_baselines = false;
  const Result seen = convert(measured);
  EXPECT_GT(seen.kl_mean.value(), 0);
  EXPECT_EQ(seen.baselines.size(), 2u);
  EXPECT_EQ(read_file(o.output / "model.safetensors", 1 << 28),
            read_file(measured.output / "model.safetensors", 1 << 28));
}

TEST_F(Convert, ProtectionIsStatedAndCanBeSwitched) {
  Plan plans[2];
  for (const auto protection : {Protection::kOff, Protection::kOn}) {
    Options o = options("protected");
    o.method = Method::kStatic;
    o.protection = protection;
    const Result result = convert(o);
    const bool on = protection == Protection::kOn;
    EXPECT_EQ(result.chosen.ends_with("protected"), on) << result.chosen;
    EXPECT_EQ(read_json(o.output / "optiq/metadata.json").at("allocation"),
              result.chosen);
    for (const LayerResult& layer : result.layers) plans[on][layer.name] = layer.spec;
  }
  EXPECT_NE(plans[0], plans[1]);
}

TEST_F(Convert, TiedProjectionsShareTheirWidthAfterRefinementToo) {
  Options o = options("tied");
  o.tie_fused = true;
  o.refine = true;
  std::map<std::string, QuantSpec> spec_of;
  for (const LayerResult& layer : convert(o).layers) spec_of[layer.name] = *layer.spec;
  int pairs = 0;
  for (const auto& [name, spec] : spec_of)
    for (const auto& [from, to] :
         {std::pair<std::string, std::string>{".gate_proj", ".up_proj"},
          {".q_proj", ".k_proj"},
          {".q_proj", ".v_proj"},
          {".in_proj_qkv", ".in_proj_z"}}) {
      if (!name.ends_with(from)) continue;
      const std::string other = name.substr(0, name.size() - from.size()) + to;
      ++pairs;
      EXPECT_EQ(spec_of.at(other), spec) << other;
    }
  EXPECT_GT(pairs, 10);
}

TEST_F(Convert, ATargetSizeIsNeverExceeded) {
  for (std::int64_t target : {6'000'000, 6'600'000, 9'999'999}) {
    Options o = options("sized");
    o.method = Method::kStatic;
    o.candidate_bits = {2, 3, 4, 5, 6, 8};
    o.target_size = target;
    const Result result = convert(o);
    EXPECT_LE(result.bytes, target);
    EXPECT_GT(result.bytes, target - 300'000);
  }
}

TEST_F(Convert, TheSearchIsCloserToTheOriginalThanMlxRounding) {
  double error[2];
  const mx::array original = logits_of(kDemo);
  for (const auto search : {quantize::Search::kMlx, quantize::Search::kSearch}) {
    Options o = options("uniform");
    o.method = Method::kUniform;
    o.candidate_bits = {8};
    o.target_bpw = 8;
    o.rounding = search;
    convert(o);
    error[search == quantize::Search::kSearch] =
        mx::mean(mx::square(logits_of(o.output) - original)).item<float>();
  }
  EXPECT_LT(error[1], error[0]);
}

TEST_F(Convert, CodesThatMakeUpForEachOtherAreCloserOnOtherText) {
  Options o = compensated_options(3);
  o.n_calibration = 6;
  o.calibration_length = 256;
  const Result result = convert(o);
  EXPECT_TRUE(result.compensated);
  EXPECT_LT(*result.kl_mean, 0.9 * result.kl_mean_uncompensated.value());
  EXPECT_EQ(result.bytes,
            static_cast<std::int64_t>(fs::file_size(o.output / "model.safetensors")));
  // Without them it is the model that was compared with.
  o.output = work_ / "plain";
  o.compensate = false;
  o.skip_baselines = false;
  const Result plain = convert(o);
  EXPECT_FALSE(plain.kl_mean_uncompensated);
  EXPECT_EQ(plain.bytes, result.bytes);
  EXPECT_NEAR(*plain.kl_mean, *result.kl_mean_uncompensated, 1e-6);
}

TEST_F(Convert, CodesOfTooLittleTextAreNotKept) {
  Options o = compensated_options(8);
  o.n_calibration = 1;
  o.calibration_length = 8;
  const Result result = convert(o);
  EXPECT_LE(*result.kl_mean, result.kl_mean_uncompensated.value());
}

TEST_F(Convert, ThePageShowsSizeAgainstDivergence) {
  Options o = options("reported");
  o.skip_baselines = false;
  const Result result = convert(o);
  using Series = CurvePoint::Series;
  const auto count = [&](Series series) {
    return std::ranges::count(result.curve, series, &CurvePoint::series);
  };
  EXPECT_EQ(count(Series::kUniform), 2);
  EXPECT_GE(count(Series::kMix), 1);
  ASSERT_EQ(count(Series::kChosen), 1);
  for (const CurvePoint& point : result.curve) {
    EXPECT_GT(point.kl_mean, 0) << point.label;
    EXPECT_GE(point.kl_p99, point.kl_mean) << point.label;
  }
  EXPECT_EQ(result.curve.back().bytes, result.bytes);
  EXPECT_EQ(result.baselines.at("uniform_4bit").bytes, result.curve.front().bytes);

  const Inspection inspection = inspect(o.output);
  ASSERT_EQ(inspection.decision.curve.size(), result.curve.size());
  EXPECT_EQ(inspection.decision.curve.back().kl_mean, *result.kl_mean);
  const std::string page = read_file(o.output / "optiq/report.html", 1 << 24);
  EXPECT_NE(page.find("<svg"), std::string::npos);
  EXPECT_NE(page.find("circle class=chosen"), std::string::npos);
  // It stands alone: nothing is fetched.
  for (const char* outside : {"http", "src=", "<link", "@import", "url("})
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;

  write_file_atomic(o.output / "optiq/metadata.json",
                    R"({"curve": [{"series": "mix", "bytes": "many"}]})");
  EXPECT_THROW(inspect(o.output), CheckpointError);
  write_file_atomic(o.output / "optiq/metadata.json",
                    R"({"base_model": "<script>", "curve": []})");
  EXPECT_EQ(inspection_page(inspect(o.output), "<b>").find("<script>"),
            std::string::npos);
}

// By gradients, groups of 128 stand beside those of 64, unless a size was asked for.
TEST_F(Convert, GroupsAreChosenToo) {
  Options o = options("groups");
  o.target_bpw = 5;
  const Result both = convert(o);
  std::set<int> sizes;
  const json written = read_json(o.output / "optiq/sensitivity.json");
  for (const auto& layer : written.at("layers"))
    for (const auto& format : layer.at("metadata").at("formats"))
      sizes.insert(format.at("group_size").get<int>());
  EXPECT_TRUE(sizes.contains(64));
  EXPECT_TRUE(sizes.contains(128));
  o.output = work_ / "groups-64";
  o.group_size = 64;
  for (const auto& layer : convert(o).layers)
    if (layer.spec) EXPECT_EQ(layer.spec->group_size, 64) << layer.name;
}

TEST_F(Convert, EarlierSensitivitiesServeAnotherBudget) {
  const Result first = convert(options("first"));
  Options o = options("second");
  o.target_bpw = 6;
  o.refine = false;
  o.sensitivity_file = work_ / "first/optiq/sensitivity.json";
  const Result second = convert(o);
  EXPECT_GT(second.bpw, first.bpw);
  EXPECT_LE(second.bpw, 6);
  o.candidate_bits = {3, 8};  // three bits were not measured
  EXPECT_THROW(convert(o), CheckpointError);
}

TEST_F(Convert, AReferenceOfFourBitsOrdersWidthsToo) {
  Options o = options("streamed");
  o.reference = ReferenceChoice::kUniform4Bit;
  o.refine = false;
  const Result result = convert(o);
  EXPECT_EQ(result.reference, sensitivity::Reference::kUniform4Bit);
  const json measured = read_json(o.output / "optiq/sensitivity.json");
  EXPECT_EQ(measured.at("reference"), "uniform_4bit");
  for (const json& layer : measured.at("layers"))
    EXPECT_GT(layer.at("sensitivities").at("4").get<double>(),
              layer.at("sensitivities").at("8").get<double>())
        << layer.at("layer_name");
}

TEST_F(Convert, BothWaysOfMeasuringGiveMixesOfOneQuality) {
  Options o = options("exact");
  o.measuring = Measuring::kExact;
  o.n_calibration = 6;
  o.compensate = false;
  const Result exact = convert(o);
  o.output = work_ / "gradient";
  o.measuring = Measuring::kGradient;
  const Result gradient = convert(o);
  // 192 tokens decide little: on 12,000 they differ by one part in a hundred.
  EXPECT_LT(*gradient.kl_mean, 1.25 * *exact.kl_mean);
  // As if it did not fit the memory: by its own weights all the same.
  o.reference = ReferenceChoice::kUniform4Bit;
  const Result streamed = convert(o);
  EXPECT_EQ(streamed.reference, sensitivity::Reference::kBf16);
  EXPECT_NEAR(*streamed.kl_mean, *gradient.kl_mean, 1e-6);
}

TEST_F(Convert, AnInterruptedRunGoesOnToTheResultOfAnUnbrokenOne) {
  Options o = options("resumed");
  o.measuring = Measuring::kExact;
  o.refine = false;
  int measured = 0;
  o.progress = [&](std::string_view stage, std::int64_t done, std::int64_t) {
    if (stage == "sensitivity" && done == 10) throw Interrupted();
  };
  EXPECT_THROW(convert(o), Interrupted);
  EXPECT_FALSE(fs::exists(o.output));
  const fs::path saved = work_ / ".resumed.sensitivity.json";
  ASSERT_TRUE(fs::exists(saved));
  ASSERT_EQ(read_json(saved).at("layers").size(), 10u);
  o.progress = nullptr;
  o.resume = true;
  Options other = o;  // layers that were rounded otherwise are not taken over
  other.rounding = quantize::Search::kMlx;
  other.progress = [&](std::string_view stage, std::int64_t, std::int64_t) {
    if (stage == "sensitivity" && ++measured == 1) throw Interrupted();
  };
  const std::string kept = read_file(saved, 1 << 24);
  EXPECT_THROW(convert(other), Interrupted);
  EXPECT_EQ(read_json(saved).at("layers").size(), 1u);
  write_file_atomic(saved, kept);

  convert(o);
  EXPECT_FALSE(fs::exists(saved));
  Options unbroken = options("unbroken");
  unbroken.measuring = Measuring::kExact;
  unbroken.refine = false;
  convert(unbroken);
  for (const char* file : {"model.safetensors", "optiq/sensitivity.json"})
    EXPECT_EQ(read_file(o.output / file, 1 << 28),
              read_file(unbroken.output / file, 1 << 28))
        << file;
}

// By gradients codes are encoded as costs are found; those of the matrices that an
// interrupted run had done are not kept, and the chosen ones encoded anew.
TEST_F(Convert, AnInterruptedRunByGradientsGoesOnToTheSamePlan) {
  Options o = options("resumed");
  o.target_bpw = 5;
  o.progress = [&](std::string_view stage, std::int64_t done, std::int64_t) {
    if (stage == "sensitivity" && done == 5) throw Interrupted();
  };
  EXPECT_THROW(convert(o), Interrupted);
  const fs::path saved = work_ / ".resumed.sensitivity.json";
  ASSERT_TRUE(fs::exists(saved));
  const json kept = read_json(saved).at("layers");
  ASSERT_GT(kept.size(), 20u);
  o.progress = nullptr;
  o.resume = true;
  const Result resumed = convert(o);
  EXPECT_FALSE(fs::exists(saved));
  Options unbroken = o;
  unbroken.output = work_ / "unbroken";
  unbroken.resume = false;
  const Result whole = convert(unbroken);
  EXPECT_EQ(read_json(o.output / "optiq/sensitivity.json").at("layers"),
            read_json(unbroken.output / "optiq/sensitivity.json").at("layers"));
  ASSERT_EQ(resumed.layers.size(), whole.layers.size());
  for (std::size_t i = 0; i < whole.layers.size(); ++i)
    EXPECT_EQ(resumed.layers[i].spec, whole.layers[i].spec) << whole.layers[i].name;
  EXPECT_LT(*resumed.kl_mean, 1.2 * *whole.kl_mean);
}

TEST_F(Convert, AQuantizedModelIsRefused) {
  Options o = options("once");
  o.method = Method::kUniform;
  o.candidate_bits = {4};
  convert(o);
  Options again = options("twice");
  again.model = o.output;
  EXPECT_THROW(convert(again), std::invalid_argument);
  EXPECT_FALSE(fs::exists(again.output));
}

TEST_F(Convert, ABudgetBelowTheNarrowestWidthNamesTheSmallest) {
  Options o = options("never");
  o.target_bpw = 3;
  o.method = Method::kStatic;
  try {
    convert(o);
    FAIL() << "3 bits from candidates of 4 and 8";
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find('4'), std::string::npos);
  }
  EXPECT_FALSE(fs::exists(o.output));
}

}  // namespace
}  // namespace optiq::convert
