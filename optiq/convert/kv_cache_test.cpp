// The KV cache's walk: measured layer by layer, chosen within a budget, verified beside
// uniform caches, written, read back.
#include "optiq/convert/kv_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/cache/kv_channels.h"
#include "optiq/cache/kv_config.h"
#include "optiq/generate/loaded_model.h"
#include "optiq/generate/session.h"
#include "optiq/models/registry.h"
#include "optiq/sensitivity/kv/equalize.h"
#include "optiq/sensitivity/sample_tokens.h"

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using sensitivity::CacheMeter;
using sensitivity::KvPart;
using sensitivity::KvPlan;
using sensitivity::KvSensitivity;

const fs::path kGolden = fs::path(OPTIQ_SOURCE_DIR) / "tests/data/golden";

std::vector<std::vector<int>> sequences(int n, int length) {
  std::mt19937 random(7);
  std::vector<std::vector<int>> all(static_cast<std::size_t>(n));
  for (auto& tokens : all)
    for (int i = 0; i < length; ++i) tokens.push_back(static_cast<int>(random() % 500));
  return all;
}

cache::CacheOptions in_float32() {
  cache::CacheOptions options;
  options.float_type = FloatType::kF32;
  return options;
}

// KL(p || q) of two rows of logits, by its definition.
double kl_of(const float* p, const float* q, int vocab) {
  const auto log_sum = [&](const float* x) {
    double most = x[0], sum = 0;
    for (int i = 0; i < vocab; ++i) most = std::max<double>(most, x[i]);
    for (int i = 0; i < vocab; ++i) sum += std::exp(x[i] - most);
    return most + std::log(sum);
  };
  const double p_sum = log_sum(p), q_sum = log_sum(q);
  double kl = 0;
  for (int i = 0; i < vocab; ++i)
    kl += std::exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
  return kl;
}

// All logits of a sequence read by a session, chunk by chunk.
std::vector<float> session_logits(models::Model& model,
                                  const cache::CacheOptions& options, int chunk,
                                  const std::vector<int>& tokens) {
  generation::SessionOptions session_options = generation::exact_session(options);
  session_options.chunk = chunk;
  generation::Session session(model, session_options);
  std::vector<float> logits;
  session.feed_all(tokens, [&](int, const mlx::core::array& rows) {
    logits.insert(logits.end(), rows.data<float>(), rows.data<float>() + rows.size());
  });
  return logits;
}

// A dense model, and a hybrid whose only attention layer is the last.
class KvMeasured : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<models::Model> model_ = models::load(kGolden / GetParam());
};

TEST_P(KvMeasured, ALayersDivergenceIsThatOfSessionsWithOnlyThatLayerQuantized) {
  constexpr int kChunk = 64, kLength = 150;
  const auto tokens = sequences(3, kLength);
  // Two sequences share a call, the third is alone.
  CacheMeter meter(*model_, tokens, {.chunk = kChunk, .batch_tokens = 2 * kChunk});
  sensitivity::KvMeasureOptions options{
      {kv_format("affine", 2, 32), kv_format("turbo", 3, 0)}, true, in_float32(), {}};
  const int vocab = model_->config().vocab_size;
  for (const KvSensitivity& part : measure_kv(*model_, meter, options))
    for (const auto& cost : part.costs) {
      SCOPED_TRACE(std::to_string(part.layer) + " " + describe(cost.format));
      cache::CacheOptions coded = in_float32();
      const KvFormat in_float = kv_float(FloatType::kF32);
      const bool keys = part.part == KvPart::kKeys;
      coded.layers.push_back(
          {part.layer,
           {keys ? cost.format : in_float, keys ? in_float : cost.format},
           ""});
      double sum = 0;
      for (const auto& sequence : tokens) {
        const auto p = session_logits(*model_, in_float32(), kChunk, sequence);
        const auto q = session_logits(*model_, coded, kChunk, sequence);
        for (int t = kLength / 2; t < kLength; ++t) {
          const auto at = static_cast<std::size_t>(t) * static_cast<std::size_t>(vocab);
          sum += kl_of(p.data() + at, q.data() + at, vocab);
        }
      }
      const double expected = sum / (3.0 * (kLength - kLength / 2));
      EXPECT_GT(expected, 0);
      // The logits are the same to the bit. The row kernel subtracts in float: each of
      // the two log sums, near 7, has an error of 2^-24 of that.
      EXPECT_NEAR(cost.kl, expected, 2 * 7 * std::ldexp(1, -24) + 1e-4 * expected);
    }
}

TEST_P(KvMeasured, TheDivergenceIsTheSameFromEveryStageBeforeTheLayer) {
  CacheMeter meter(*model_, sequences(2, 100), {.chunk = 32});
  cache::CacheOptions coded = in_float32();
  const KvFormat format = kv_format("affine", 2, 64);
  coded.layers.push_back({3, {format, format}, ""});
  const double whole = meter.measure(coded).mean;
  for (int stage = 1; stage <= 3; ++stage) {
    meter.advance_to(stage);
    EXPECT_EQ(meter.measure(coded).mean, whole) << stage;
  }
  EXPECT_EQ(meter.measure(in_float32()).mean, 0);
}

TEST_P(KvMeasured, OnlyTheLaterHalfOfASequenceCounts) {
  // The first 64 tokens stay float: with 64 tokens nothing is coded, with 128 the later
  // half is.
  cache::CacheOptions coded = in_float32();
  const KvFormat format = kv_format("affine", 2, 64);
  coded.formats = {format, format};
  coded.quantized_start = 64;
  EXPECT_EQ(CacheMeter(*model_, sequences(1, 64)).measure(coded).mean, 0);
  EXPECT_GT(CacheMeter(*model_, sequences(1, 128)).measure(coded).mean, 0);
}

TEST_P(KvMeasured, MeansOfKeysChangeNothingInAFloatCache) {
  CacheMeter meter(*model_, sequences(2, 100));
  cache::CacheOptions centred = in_float32();
  for (const auto& [layer, channels] : meter.channels())
    centred.channels[layer].k_mean = channels.k_mean;
  ASSERT_FALSE(centred.channels.empty());
  // Softmax does not see the mean; float32 sums round it away, some 1e-6 of logits.
  EXPECT_LT(meter.measure(centred).mean, 1e-9);
}

TEST_P(KvMeasured, ScalesOfChannelsChangeNothingInAFloatCache) {
  CacheMeter meter(*model_, sequences(2, 100));
  cache::CacheOptions scaled = in_float32();
  std::mt19937 random(3);
  std::lognormal_distribution<float> sizes(0, 1);
  for (const auto& [layer, channels] : meter.channels()) {
    cache::ChannelTransform& transform = scaled.channels[layer];
    transform.k_mean = channels.k_mean;
    for (std::size_t i = 0; i < channels.k.size(); ++i) {
      transform.k_scale.push_back(sizes(random));
      transform.v_scale.push_back(sizes(random));
    }
  }
  EXPECT_LT(meter.measure(scaled).mean, 1e-9);
}

TEST_P(KvMeasured, StatisticsAreThoseOfTheCache) {
  CacheMeter meter(*model_, sequences(3, 60));
  ASSERT_FALSE(meter.channels().empty());
  for (const auto& [layer, c] : meter.channels()) {
    const auto& shape = model_->layer_shapes()[static_cast<std::size_t>(layer)];
    const auto n = static_cast<std::size_t>(shape.n_kv_heads * shape.head_dim);
    for (const auto* values : {&c.k_mean, &c.k, &c.k_centred, &c.v, &c.q}) {
      ASSERT_EQ(values->size(), n);
      if (values != &c.k_mean)
        for (const float value : *values) EXPECT_GT(value, 0);
    }
    for (std::size_t i = 0; i < n; ++i)
      EXPECT_NEAR(std::pow(c.k_centred[i], 2) + std::pow(c.k_mean[i], 2),
                  std::pow(c.k[i], 2), 1e-3 * std::pow(c.k[i], 2));
  }
}

// What outlier channels cost is what scales take away: measured with keys of a few
// channels made larger by the cache itself, which changes no answer.
TEST_P(KvMeasured, EqualizingTakesAwayWhatOutliersCost) {
  CacheMeter meter(*model_, sequences(3, 128));
  cache::CacheOptions wild = in_float32();
  const KvFormat format = kv_format("affine", 4, 64);
  wild.formats = {format, format};
  for (const auto& [layer, channels] : meter.channels()) {
    auto& scale = wild.channels[layer].k_scale;
    scale.assign(channels.k.size(), 1);
    for (std::size_t i = 5; i < scale.size(); i += 23) scale[i] = 32;
  }
  const double outliers = meter.measure(wild).mean;
  cache::CacheOptions evened = wild;
  evened.formats.reset();
  for (auto& [layer, channels] : evened.channels) channels = {};
  evened.channels = sensitivity::equalize(*model_, meter, {format, evened, {}});
  evened.formats = {format, format};
  meter.restart();
  const double equalized = meter.measure(evened).mean;
  for (auto& [layer, channels] : evened.channels) channels = {};
  const double plain = meter.measure(evened).mean;
  EXPECT_LT(equalized, 0.5 * outliers);
  EXPECT_LT(equalized, 1.05 * plain);
}

TEST(EqualizingScales, MakeChannelsAlikeAndLeaveEqualOnesAlone) {
  const std::vector<float> alike(128, 0.5f);
  for (const double p : {2.0, 6.0})
    for (const float s : sensitivity::equalizing_scales(alike, alike, 64, p))
      EXPECT_FLOAT_EQ(s, 1);
  // A fold of keys and queries is undone: k 32, q 1/32.
  std::vector<float> q(64, 1), k(64, 1);
  k[3] = 32;
  q[3] = 1.0f / 32;
  for (const double p : {2.0, 6.0}) {
    const auto s = sensitivity::equalizing_scales(q, k, 64, p);
    EXPECT_NEAR(s[0] / s[3], 32, 1e-3) << p;
  }
  // A channel that is always zero is left finite.
  k[3] = 0;
  for (const float s : sensitivity::equalizing_scales({}, k, 64, 2)) {
    EXPECT_GE(s, 1.0f / 2048);
    EXPECT_LE(s, 2048);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, KvMeasured, ::testing::Values("qwen3", "qwen3_5_text"),
                         [](const auto& info) { return std::string(info.param); });

// Sensitivities as measured ones look: falling by a factor of four a bit, layers apart.
std::vector<KvSensitivity> made_up(int layers, bool separate,
                                   const std::vector<int>& bits, unsigned seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> spread(0, 1.5);
  std::vector<KvSensitivity> all;
  for (int layer = 0; layer < layers; ++layer)
    for (const KvPart part : separate ? std::vector{KvPart::kKeys, KvPart::kValues}
                                      : std::vector{KvPart::kKeysAndValues}) {
      KvSensitivity s{layer, part, 2, 64, {}};
      const double level = spread(random);
      for (int b : bits)
        s.costs.push_back({kv_format("affine", b, 64), 64LL * b * s.values() / 8,
                           level * std::pow(4.0, -b) * spread(random), 0});
      all.push_back(s);
    }
  return all;
}

TEST(KvAllocation, IsWithinItsBudgetAndLessThanOneStepBelowIt) {
  for (const bool separate : {false, true})
    for (const std::vector<int>& bits :
         {std::vector{4, 8}, std::vector{2, 3, 4, 5, 6, 8}})
      for (int layers : {1, 2, 6, 33})
        for (double target = bits.front(); target <= 8; target += 0.25) {
          const auto measured = made_up(layers, separate, bits, 3);
          const auto items = sensitivity::kv_items(measured);
          const auto plan = sensitivity::plan_of(
              measured, allocate(items, sensitivity::BitsPerWeight{target}));
          const std::vector<cache::LayerShape> shapes(
              static_cast<std::size_t>(layers), {.n_kv_heads = 2, .head_dim = 64});
          const double average = sensitivity::average_bits(shapes, plan);
          const int widest_step = bits.size() == 2 ? 4 : 2;
          const double step =
              static_cast<double>(widest_step) / (layers * (separate ? 2 : 1));
          EXPECT_LE(average, target + 1e-12);
          EXPECT_GT(average, target - step)
              << layers << " layers, target " << target << ", separate " << separate;
        }
}

class KvCacheRun : public ::testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::temp_directory_path() /
            ("optiq-kv-cache-test-" + std::to_string(::getpid()));
    fs::create_directories(work_);
  }
  void TearDown() override { fs::remove_all(work_); }

  KvCacheOptions options(const std::string& name) const {
    KvCacheOptions o;
    o.output = work_ / name;
    o.n_samples = 2;
    o.seq_len = 96;
    return o;
  }

  static KvCacheResult run(const KvCacheOptions& options) {
    static auto* const model = new LoadedModel(load("demo"));
    return choose_kv_cache(
        *model->model,
        sensitivity::tokenize_with(*model->tokenizer, model->chat_template), options);
  }

  static json read_json(const fs::path& file) {
    return json::parse(read_file(file, 1 << 24));
  }

  std::vector<std::string> names_in(const fs::path& directory) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory))
      names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }

  fs::path work_;
};

TEST_F(KvCacheRun, WhatIsWrittenIsReadBackAsChosen) {
  KvCacheOptions o = options("out");
  o.separate_kv = true;
  o.target_bits = 5.5;
  o.center_keys = false;
  o.equalize = false;
  const KvCacheResult result = run(o);
  KvPlan read;
  for (const auto& entry : cache::load_kv_config(o.output / "kv_config.json"))
    read[entry.layer_idx] = entry.formats;
  EXPECT_EQ(read, result.plan);
  EXPECT_EQ(names_in(o.output),
            (std::vector<std::string>{"kv_config.json", "kv_sensitivity.json"}));

  const json measured = read_json(o.output / "kv_sensitivity.json");
  ASSERT_EQ(measured.size(), 2u);
  EXPECT_EQ(measured[1].at("layer_idx"), 7);
  EXPECT_EQ(measured[1].at("layer_name"), "model.layers.7.self_attn");
  EXPECT_EQ(measured[1].at("n_kv_heads"), 2);
  EXPECT_EQ(measured[1].at("head_dim"), 64);
  EXPECT_DOUBLE_EQ(measured[1].at("sensitivities").at("4"),
                   measured[1].at("k_sensitivities").at("4").get<double>() +
                       measured[1].at("v_sensitivities").at("4").get<double>());
}

// Its reader takes a list of these three, and hands each bits to a layer's cache.
TEST_F(KvCacheRun, AReaderOfTheOriginalsKeysGetsAtLeastTheChosenBits) {
  KvCacheOptions o = options("out");
  o.separate_kv = true;
  o.target_bits = 5;
  const KvCacheResult result = run(o);
  const json config = read_json(o.output / "kv_config.json");
  ASSERT_TRUE(config.is_array());
  for (const json& entry : config) {
    const auto& [k, v] = result.plan.at(entry.at("layer_idx").get<int>());
    EXPECT_EQ(entry.at("bits"), std::max(k.bits, v.bits));
    EXPECT_TRUE(entry.at("bits") == 4 || entry.at("bits") == 8);
    EXPECT_EQ(entry.at("group_size"), k.group_size);
  }
}

TEST_F(KvCacheRun, NoUniformCacheOfAtMostTheSameBytesIsBetterOnTheHeldOutText) {
  for (const char* format : {"affine", "turbo"})
    for (double target : {3.0, 3.5, 4.5}) {
      KvCacheOptions o = options("out");
      o.format = format;
      // Every width that such a cache can have.
      if (o.format == "affine") o.candidate_bits = {2, 3, 4, 5, 6, 8};
      o.target_bits = target;
      o.separate_kv = true;
      const KvCacheResult result = run(o);
      EXPECT_LE(result.verified.average_bits, target);
      for (const auto& [name, baseline] : result.baselines) {
        if (baseline.bytes_per_token > result.verified.bytes_per_token) continue;
        EXPECT_LE(result.verified.kl_mean, baseline.kl_mean)
            << name << " " << format << " " << target << " " << result.chosen;
      }
    }
}

TEST_F(KvCacheRun, AnInterruptedRunLeavesNothing) {
  for (const char* when : {"reference", "sensitivity", "joint verification"}) {
    KvCacheOptions o = options("out");
    o.progress = [&](std::string_view stage, std::int64_t done, std::int64_t) {
      if (stage == when && done == 1) throw Interrupted();
    };
    EXPECT_THROW(run(o), Interrupted);
    EXPECT_TRUE(names_in(work_).empty()) << when;
  }
}

TEST_F(KvCacheRun, OtherFilesOfTheDirectoryStayAndMeansOfAnEarlierRunGo) {
  KvCacheOptions o = options("out");
  fs::create_directories(o.output);
  write_file_atomic(o.output / "config.json", "{}");
  o.center_keys = true;
  const KvCacheResult result = run(o);
  const auto channels = cache::load_kv_channels(o.output / cache::kKvChannelsFile);
  ASSERT_EQ(channels.size(), 2u);
  EXPECT_EQ(channels.at(3).k_mean.size(), 2u * 64u);
  o.center_keys = false;
  o.equalize = false;
  run(o);
  EXPECT_EQ(names_in(o.output),
            (std::vector<std::string>{"config.json", "kv_config.json",
                                      "kv_sensitivity.json"}));
}

TEST_F(KvCacheRun, WhatCannotBeMetIsRefusedBeforeTheMeasuring) {
  const auto refused = [&](const std::string& word, auto change) {
    KvCacheOptions o = options("out");
    change(o);
    o.progress = [](std::string_view, std::int64_t, std::int64_t) { FAIL(); };
    try {
      run(o);
      FAIL() << word;
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << error.what();
    }
    EXPECT_TRUE(names_in(work_).empty());
  };
  refused("--target-bits", [](auto& o) { o.target_bits = 3; });
  refused("--candidate-bits", [](auto& o) { o.candidate_bits = {4, 7}; });
  refused("--candidate-bits", [](auto& o) {
    o.format = "turbo";
    o.candidate_bits = {4, 8};
  });
  refused("--group-size", [](auto& o) { o.group_size = 48; });
  refused("--seq-len", [](auto& o) { o.seq_len = 1 << 20; });
  refused("--format", [](auto& o) { o.format = "nf4"; });
}

TEST_F(KvCacheRun, InjectedOutliersChangeNoLogitsAndHurtTheCache) {
  for (const char* name : {"qwen3", "llama_tied", "qwen3_5_text"}) {
    SCOPED_TRACE(name);
    const fs::path copy = work_ / name;
    const std::string command =
        "python3 " OPTIQ_SOURCE_DIR "/scripts/inject-outliers '" +
        (kGolden / name).string() + "' '" + copy.string() + "' > /dev/null";
    ASSERT_EQ(std::system(command.c_str()), 0);
    const auto before = models::load(kGolden / name), after = models::load(copy);
    const auto tokens = sequences(1, 128);
    const auto p = session_logits(*before, in_float32(), 128, tokens[0]);
    const auto q = session_logits(*after, in_float32(), 128, tokens[0]);
    double most = 0, largest = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      most = std::max<double>(most, std::abs(p[i] - q[i]));
      largest = std::max<double>(largest, std::abs(p[i]));
    }
    // Factors are powers of two. Only less-one norms round, to 2^-24 of a weight, and
    // sums of 64 products are taken as before.
    EXPECT_LE(most, 64 * std::ldexp(1, -23) * largest);
    cache::CacheOptions coded = in_float32();
    const KvFormat format = kv_format("affine", 4, 32);
    coded.formats = {format, format};
    EXPECT_GT(CacheMeter(*after, tokens).measure(coded).mean,
              2 * CacheMeter(*before, tokens).measure(coded).mean);
  }
}

}  // namespace
}  // namespace optiq::convert
