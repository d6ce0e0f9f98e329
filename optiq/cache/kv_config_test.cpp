#include "optiq/cache/kv_config.h"

#include <stdexcept>

#include "optiq/cache/kv_cache.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::cache {
namespace {

using checkpoint::expect_mentions;
using checkpoint::message_of;

std::vector<LayerEntry> parse(const std::string& text) {
  return parse_kv_config(text, "kv/kv_config.json");
}

std::string error_of(const std::string& text) {
  return message_of<CheckpointError>([&] { parse(text); });
}

const KvFormat kAffine8 = kv_format("affine", 8, 64);

TEST(KvConfig, AFileOfTheOriginalIsReadUnchanged) {
  const checkpoint::TemporaryDirectory directory;
  checkpoint::write_text(directory / "kv_config.json", R"([
    {"layer_idx": 3, "bits": 8, "group_size": 64},
    {"layer_idx": 7, "bits": 4, "group_size": 32}
  ])");
  const auto layers = load_kv_config(directory / "kv_config.json");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].layer_idx, 3);
  EXPECT_EQ(layers[0].formats, (LayerFormats{kAffine8, kAffine8}));
  EXPECT_EQ(layers[1].layer_idx, 7);
  EXPECT_EQ(layers[1].formats.k, kv_format("affine", 4, 32));
  expect_mentions(layers[1].source, {"kv_config.json", "entry 1"});
}

TEST(KvConfig, KeysAndValuesMayDifferAndMayStayFloat) {
  const auto layers = parse(R"([
    {"layer_idx": 0, "bits": 8, "group_size": 64, "v_bits": 4},
    {"layer_idx": 1, "bits": 3, "k_bits": 4, "format": "turbo"},
    {"layer_idx": 2, "bits": 4, "k_bits": 16, "group_size": 128},
    {"layer_idx": 4, "bits": 16, "kl": 0.5}
  ])");
  EXPECT_EQ(layers[0].formats, (LayerFormats{kAffine8, kv_format("affine", 4, 64)}));
  EXPECT_EQ(layers[1].formats,
            (LayerFormats{kv_format("turbo", 4, 0), kv_format("turbo", 3, 0)}));
  EXPECT_EQ(layers[2].formats,
            (LayerFormats{kv_float(FloatType::kF16), kv_format("affine", 4, 128)}));
  EXPECT_EQ(layers[3].formats.v, kv_float(FloatType::kF16));
}

TEST(KvConfig, EveryMistakeIsOneLineThatNamesFileAndEntry) {
  const std::string good = R"({"layer_idx": 0, "bits": 8, "group_size": 64}, )";
  const std::pair<const char*, const char*> mistakes[] = {
      {R"(3)", "object"},
      {R"(null)", "object"},
      {R"([])", "object"},
      {R"({})", "bits"},
      {R"({"layer_idx": 1})", "bits"},
      {R"({"bits": 4})", "layer_idx"},
      {R"({"layer_idx": -1, "bits": 4})", "layer_idx"},
      {R"({"layer_idx": 1.5, "bits": 4})", "layer_idx"},
      {R"({"layer_idx": 99999999999999999999, "bits": 4})", "layer_idx"},
      {R"({"layer_idx": "1", "bits": 4})", "layer_idx"},
      {R"({"layer_idx": 1, "bits": 7})", "7"},
      {R"({"layer_idx": 1, "bits": 0})", "bits"},
      {R"({"layer_idx": 1, "bits": "4"})", "bits"},
      {R"({"layer_idx": 1, "bits": 4, "k_bits": 1})", "1"},
      {R"({"layer_idx": 1, "bits": 4, "v_bits": true})", "v_bits"},
      {R"({"layer_idx": 1, "bits": 4, "group_size": 48})", "48"},
      {R"({"layer_idx": 1, "bits": 4, "group_size": 0})", "group_size"},
      {R"({"layer_idx": 1, "bits": 8, "format": "turbo"})", "turbo"},
      {R"({"layer_idx": 1, "bits": 4, "format": "a\u001b[2Jb\nc"})", "format"},
      {R"({"layer_idx": 1, "bits": 4, "format": 4})", "format"},
      {R"({"layer_idx": 0, "bits": 4})", "layer_idx"},
  };
  for (const auto& [entry, names] : mistakes) {
    SCOPED_TRACE(entry);
    const std::string error = error_of("[" + good + entry + "]");
    expect_mentions(error, {"kv/kv_config.json", "entry 1", names});
    EXPECT_EQ(error.find('\x1b'), std::string::npos);
  }
}

TEST(KvConfig, WhatIsNoListIsRefused) {
  for (const char* text :
       {"", "{}", "null", "[", "[{]", "\xff\xfe", "[1e999]",
        R"({"layer_idx": 0, "bits": 8})", R"([{"bits": 8, "bits": 4}])"}) {
    SCOPED_TRACE(text);
    expect_mentions(error_of(text), {"kv/kv_config.json"});
  }
  expect_mentions(error_of(std::string(100000, '[')), {"nested"});
  const checkpoint::TemporaryDirectory directory;
  expect_mentions(
      message_of<CheckpointError>([&] { load_kv_config(directory / "none.json"); }),
      {"none.json"});
}

TEST(KvConfig, ACacheRefusesEntriesThatAreNotTheModels) {
  const std::vector<LayerShape> shapes = {{.n_kv_heads = 2, .head_dim = 64},
                                          {.conv_kernel = 4,
                                           .conv_channels = 8,
                                           .n_value_heads = 1,
                                           .key_dim = 4,
                                           .value_dim = 4}};
  const auto cache_of = [&](const std::string& text) {
    CacheOptions options;
    options.layers = parse(text);
    return KvCache(shapes, options);
  };
  const KvCache cache = cache_of(R"([{"layer_idx": 0, "bits": 8}])");
  EXPECT_EQ(cache.layer(0)->formats.k, kAffine8);
  EXPECT_EQ(cache.layer(1), nullptr);
  for (const char* layer : {"1", "2"})
    expect_mentions(
        message_of<CheckpointError>([&] {
          cache_of(R"([{"bits": 8, "layer_idx": )" + std::string(layer) + "}]");
        }),
        {"kv/kv_config.json", "entry 0", "layer_idx", layer});
  CacheOptions options;
  options.layers = {{5, {kAffine8, kAffine8}, ""}};
  EXPECT_THROW(KvCache(shapes, options), std::invalid_argument);
}

TEST(KvCache, LayersThatAreNotListedStayFloat) {
  const std::vector<LayerShape> shapes(3, LayerShape{.n_kv_heads = 2, .head_dim = 64});
  CacheOptions options;
  options.layers = parse(R"([{"layer_idx": 1, "bits": 8}])");
  options.quantized_start = 65;
  const KvCache cache(shapes, options);
  EXPECT_EQ(cache.layer(0)->formats.k, kv_float(FloatType::kF16));
  EXPECT_EQ(cache.layer(1)->formats.k, kAffine8);
  EXPECT_EQ(cache.float_pages(), 2);
  // 2 heads of 64 values, K and V, two bytes each; or one, and scale and bias.
  EXPECT_EQ(cache.bytes_per_token(), 2 * (2 * 2 * 64 * 2) + 2 * 2 * (64 + 4));
}

TEST(KvCache, ACacheInFloatHasPagesOfOneKind) {
  CacheOptions options;
  options.quantized_start = 1000;
  const KvCache cache({{.n_kv_heads = 1, .head_dim = 64}}, options);
  EXPECT_EQ(cache.float_pages(), 0);
}

}  // namespace
}  // namespace optiq::cache
