#include "optiq/checkpoint/quantization_config.h"

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

using nlohmann::json;

constexpr QuantSpec kFourBits{QuantMode::kAffine, 4, 64};

std::optional<Quantization> parse(const std::string& text) {
  return parse_quantization(json::parse(text), "m/config.json");
}

std::string error_of(const std::string& text) {
  return message_of<CheckpointError>([&] { parse(text); });
}

TEST(Quantization, OverridesAndFalseAreReadBesideTheDefault) {
  const auto q = parse(
      R"({"quantization":{"group_size":64,"bits":4,
          "a":{"bits":8,"group_size":32},"b":false,"c":true,"quant_note":"x"}})");
  ASSERT_TRUE(q);
  EXPECT_EQ(q->defaults, kFourBits);
  EXPECT_EQ(q->lookup("a"), (QuantSpec{QuantMode::kAffine, 8, 32}));
  EXPECT_EQ(q->lookup("b"), std::nullopt);
  EXPECT_EQ(q->lookup("c"), kFourBits);
  EXPECT_EQ(q->lookup("model.layers.0.mlp.up_proj"), kFourBits);
  const json written = {{"quantization", q->to_json()}};
  const auto again = parse(written.dump());
  EXPECT_EQ(again->overrides, q->overrides);
  EXPECT_EQ(again->defaults, q->defaults);
}

TEST(Quantization, AnEntryWithoutAModeIsAffineWhateverTheModelIs) {
  const auto q = parse(
      R"({"quantization":{"group_size":16,"bits":4,"mode":"nvfp4",
          "mlp.gate":{"group_size":64,"bits":8},"x":{"mode":"mxfp8"}}})");
  EXPECT_EQ(q->defaults, (QuantSpec{QuantMode::kNvfp4, 4, 16}));
  EXPECT_EQ(q->lookup("mlp.gate"), (QuantSpec{QuantMode::kAffine, 8, 64}));
  EXPECT_EQ(q->lookup("x"), (QuantSpec{QuantMode::kMxfp8, 8, 32}));
}

TEST(Quantization, ARealMixedConfigIsRead) {
  const auto q = parse_quantization(
      read_json_object(std::string(OPTIQ_SOURCE_DIR) +
                       "/tests/data/configs/qwen3_5_vlm-mlx-mixed.json"),
      "config.json");
  ASSERT_TRUE(q);
  EXPECT_EQ(q->overrides.size(), 23u);
  EXPECT_EQ(q->lookup("language_model.model.layers.0.linear_attn.in_proj_z"),
            (QuantSpec{QuantMode::kAffine, 5, 32}));
}

TEST(Quantization, AModelThatIsNotQuantizedHasNone) {
  EXPECT_FALSE(parse(R"({"model_type":"llama"})"));
  EXPECT_FALSE(parse(R"({"quantization":null})"));
}

TEST(Quantization, FormatsOfOthersGetOneClearError) {
  for (const char* method : {"bitsandbytes", "quark", "compressed-tensors"})
    expect_mentions(
        error_of(std::string(R"({"quantization_config":{"quant_method":")") + method +
                 R"(","bits":4,"group_size":128}})"),
        {"m/config.json", "quantization_config.quant_method", method, "GPTQ, AWQ"});
  expect_mentions(
      error_of(R"({"text_config":{"quantization_config":{"quant_method":"hqq"}}})"),
      {"text_config.quantization_config.quant_method", "hqq"});
}

TEST(Quantization, WidthsThatNoModeHasAreErrors) {
  expect_mentions(error_of(R"({"quantization":{"group_size":64,"bits":7}})"),
                  {"quantization.bits", "2, 3, 4, 5, 6, 8", "affine", "7"});
  expect_mentions(error_of(R"({"quantization":{"group_size":16,"bits":4}})"),
                  {"quantization.group_size", "32, 64, 128", "16"});
  expect_mentions(
      error_of(R"({"quantization":{"group_size":64,"bits":4,"a":{"mode":"int9"}}})"),
      {"quantization.a.mode", "affine, mxfp4, mxfp8, nvfp4", "'int9'"});
  expect_mentions(error_of(R"({"quantization":{"bits":4}})"),
                  {"quantization.group_size", "nothing"});
  expect_mentions(error_of(R"({"quantization":4})"), {"quantization", "an object"});
}

class ModuleQuantizationTest : public ::testing::Test {
 protected:
  ModuleQuantizationTest() { write_text(directory_ / "config.json", "{}"); }

  // A module of 8 rows and 256 columns with the shapes of `spec`.
  Checkpoint write(const QuantSpec& spec, std::vector<TensorEntry> more = {}) {
    const bool is_affine = spec.mode == QuantMode::kAffine;
    const DataType scales = is_affine ? DataType::kBF16 : DataType::kU8;
    std::vector<TensorEntry> entries = {
        {"m.weight", DataType::kU32, {8, 256 * spec.bits / 32}},
        {"m.scales", scales, {8, 256 / spec.group_size}}};
    if (is_affine) entries.push_back({"m.biases", scales, {8, 256 / spec.group_size}});
    entries.insert(entries.end(), more.begin(), more.end());
    write_tensors(directory_ / "model.safetensors", entries);
    return Checkpoint::open(directory_.path());
  }

  std::string error_of(const Checkpoint& checkpoint, const Quantization* q,
                       std::int64_t columns) {
    return message_of<CheckpointError>(
        [&] { module_quantization(checkpoint, q, "m", columns); });
  }

  TemporaryDirectory directory_;
};

TEST_F(ModuleQuantizationTest, EveryModeAndWidthIsKnownFromItsShapes) {
  Quantization q;
  for (const QuantModeInfo& row : quant_modes())
    for (const int bits : row.bits)
      for (const int group_size : row.group_sizes) {
        const QuantSpec spec{row.mode, bits, group_size};
        SCOPED_TRACE(describe(spec));
        const auto found = module_quantization(write(spec), &q, "m", 256);
        ASSERT_TRUE(found);
        EXPECT_EQ(found->spec, spec);
        EXPECT_EQ(found->rows, 8);
        EXPECT_EQ(found->columns, 256);
        q.defaults = spec;  // without the columns the default decides
        EXPECT_EQ(module_quantization(write(spec), &q, "m")->spec, spec);
      }
}

TEST_F(ModuleQuantizationTest,
       AConfigThatNamesAnotherWidthIsAnErrorThatNamesTheModule) {
  // The same shapes but for K: 4 bits in groups of 64, 8 bits in groups of 32.
  const Checkpoint checkpoint = write({QuantMode::kAffine, 8, 32});
  Quantization q;
  q.overrides["m"] = kFourBits;
  expect_mentions(error_of(checkpoint, &q, 256),
                  {"model.safetensors", "'m'", "config.json says affine 4-bit group 64",
                   "the shapes say affine 8-bit group 32"});
  q.overrides["m"] = std::nullopt;
  expect_mentions(error_of(checkpoint, &q, 256), {"'m'", "not quantized"});
  q.overrides.clear();  // a default is no statement about this module
  EXPECT_EQ(module_quantization(checkpoint, &q, "m", 256)->spec.bits, 8);
}

TEST_F(ModuleQuantizationTest, ShapesThatFitNothingAreErrors) {
  const Quantization q;
  const Checkpoint checkpoint =
      write(kFourBits, {{"odd.weight", DataType::kU32, {8, 33}},
                        {"odd.scales", DataType::kBF16, {8, 4}},
                        {"odd.biases", DataType::kBF16, {8, 4}},
                        {"rows.weight", DataType::kU32, {8, 32}},
                        {"rows.scales", DataType::kBF16, {7, 4}},
                        {"rows.biases", DataType::kBF16, {7, 4}},
                        {"nobias.weight", DataType::kU32, {8, 32}},
                        {"nobias.scales", DataType::kBF16, {8, 4}},
                        {"type.weight", DataType::kBF16, {8, 32}},
                        {"type.scales", DataType::kBF16, {8, 4}},
                        {"none.scales", DataType::kBF16, {8, 4}},
                        {"plain.weight", DataType::kBF16, {8, 256}}});
  const auto error = [&](const char* path, std::int64_t columns = 0) {
    return message_of<CheckpointError>(
        [&] { module_quantization(checkpoint, &q, path, columns); });
  };
  expect_mentions(error("odd"), {"'odd'", "no quantized format", "[8, 33]"});
  expect_mentions(error("m", 768), {"'m'", "768 columns"});
  expect_mentions(error("rows"), {"'rows'", "same rows", "[7, 4]"});
  expect_mentions(error("nobias"), {"'nobias'", "biases"});
  expect_mentions(error("type"), {"'type'", "U32"});
  expect_mentions(error("none"), {"'none.weight'", "missing"});
  EXPECT_FALSE(module_quantization(checkpoint, &q, "plain", 256));
  expect_mentions(message_of<CheckpointError>(
                      [&] { module_quantization(checkpoint, nullptr, "m"); }),
                  {"'m'", "no 'quantization'"});
}

TEST_F(ModuleQuantizationTest, ANamedModuleWithoutScalesIsAnError) {
  const Checkpoint checkpoint =
      write(kFourBits, {{"plain.weight", DataType::kBF16, {8, 256}}});
  Quantization q;
  q.overrides["plain"] = kFourBits;
  expect_mentions(message_of<CheckpointError>(
                      [&] { module_quantization(checkpoint, &q, "plain", 256); }),
                  {"'plain'", "'plain.scales'", "missing"});
  q.overrides["plain"] = std::nullopt;
  EXPECT_FALSE(module_quantization(checkpoint, &q, "plain", 256));
}

}  // namespace
}  // namespace optiq::checkpoint
