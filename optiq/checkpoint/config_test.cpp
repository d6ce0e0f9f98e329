#include "optiq/checkpoint/config.h"

#include <cmath>
#include <random>

#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/testing.h"

namespace optiq::checkpoint {
namespace {

using nlohmann::json;

const std::filesystem::path kConfigs =
    std::filesystem::path(OPTIQ_SOURCE_DIR) / "tests/data/configs";

ModelConfig parse(const json& config, const json& generation = json::object()) {
  return parse_model_config(config, generation, "m/config.json");
}

ModelConfig parse_file(const std::string& name) {
  return parse(read_json_object(kConfigs / name));
}

json tiny(const std::string& model_type) {
  return {{"model_type", model_type}, {"hidden_size", 128},
          {"intermediate_size", 256}, {"num_hidden_layers", 4},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 512}};
}

std::string error_of(const json& config) {
  return message_of<CheckpointError>([&] { parse(config); });
}

TEST(ModelConfig, TheTextPartOfAMultimodalModelIsRead) {
  const ModelConfig config = parse_file("qwen3_5_vlm.json");
  EXPECT_EQ(config.architecture, "qwen3_5");
  EXPECT_EQ(config.model_type, "qwen3_5");
  EXPECT_TRUE(config.has_vision);
  EXPECT_TRUE(config.attn_output_gate);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.hidden_size, 128);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.rope.rotary_dim, 64);
  EXPECT_EQ(config.rope.theta, 1e7);
  EXPECT_EQ(config.rope.mrope_section, (std::vector<std::int64_t>{11, 11, 10}));
  EXPECT_EQ(config.linear.n_value_heads, 2);
  EXPECT_EQ(config.linear.conv_kernel_dim, 4);
  EXPECT_EQ(config.mtp_num_hidden_layers, 1);
  EXPECT_EQ(config.eos_token_ids, (std::vector<std::int64_t>{2}));
  EXPECT_EQ(config.dtype, "bfloat16");
  ASSERT_EQ(config.layer_types.size(), 4u);
  EXPECT_EQ(config.layer_types[2], LayerType::kLinearAttention);
  EXPECT_EQ(config.layer_types[3], LayerType::kFullAttention);
}

TEST(ModelConfig, TheMlxFormOfTheSameModelGivesTheSameConfig) {
  ModelConfig hf = parse_file("qwen3_5_vlm.json");
  ModelConfig mlx = parse_file("qwen3_5_vlm-mlx-mixed.json");
  EXPECT_FALSE(mlx.has_vision);
  EXPECT_EQ(mlx.rope.type, hf.rope.type);  // "type" there, "rope_type" here
  EXPECT_EQ(mlx.rope.rotary_dim, hf.rope.rotary_dim);
  EXPECT_EQ(mlx.layer_types, hf.layer_types);
  EXPECT_EQ(mlx.head_dim, hf.head_dim);
  EXPECT_EQ(mlx.eos_token_ids, hf.eos_token_ids);
}

TEST(ModelConfig, Llama3ScalingIsReadFromTheOldKeys) {
  const ModelConfig config = parse_file("llama_tied.json");
  EXPECT_EQ(config.rope.type, RopeType::kLlama3);
  EXPECT_EQ(config.rope.theta, 500000);
  EXPECT_EQ(config.rope.factor, 8);
  EXPECT_EQ(config.rope.low_freq_factor, 1);
  EXPECT_EQ(config.rope.high_freq_factor, 4);
  EXPECT_EQ(config.rope.original_max_position_embeddings, 64);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.qk_norm);
}

TEST(ModelConfig, AbsentFieldsHaveTheDefaultsOfTheirClass) {
  const ModelConfig qwen2 = parse(tiny("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  EXPECT_EQ(qwen2.head_dim, 32);
  EXPECT_EQ(qwen2.rope.theta, 10000);
  EXPECT_EQ(qwen2.rope.rotary_dim, 32);
  EXPECT_EQ(qwen2.max_position_embeddings, 32768);
  EXPECT_FALSE(qwen2.tie_word_embeddings);

  const ModelConfig qwen3 = parse(tiny("qwen3"));
  EXPECT_EQ(qwen3.head_dim, 128);  // not hidden_size / heads
  EXPECT_FALSE(qwen3.qkv_bias);

  json llama = tiny("llama");
  llama.erase("num_key_value_heads");
  EXPECT_EQ(parse(llama).n_kv_heads, 4);
  EXPECT_EQ(parse(llama).max_position_embeddings, 2048);

  const ModelConfig hybrid = parse(tiny("qwen3_5_text"));
  EXPECT_EQ(hybrid.head_dim, 256);
  EXPECT_EQ(hybrid.rope.rotary_dim, 64);  // partial_rotary_factor 0.25
  EXPECT_EQ(hybrid.linear.n_key_heads, 16);
  EXPECT_EQ(hybrid.linear.n_value_heads, 32);
  EXPECT_EQ(hybrid.layer_types.back(), LayerType::kFullAttention);
  EXPECT_TRUE(hybrid.has_linear_attention());
  EXPECT_TRUE(parse(tiny("qwen3_5")).has_linear_attention());
}

TEST(ModelConfig, SlidingWindowsBeginAtMaxWindowLayersAndOnlyWhenInUse) {
  json config = tiny("qwen2");
  config["sliding_window"] = 64;
  config["max_window_layers"] = 1;
  EXPECT_EQ(parse(config).sliding_window, 0);
  config["use_sliding_window"] = true;
  const ModelConfig windowed = parse(config);
  EXPECT_EQ(windowed.sliding_window, 64);
  EXPECT_EQ(windowed.layer_types[0], LayerType::kFullAttention);
  EXPECT_EQ(windowed.layer_types[1], LayerType::kSlidingAttention);
  config["sliding_window"] = nullptr;
  EXPECT_EQ(parse(config).sliding_window, 0);
}

TEST(ModelConfig, MistralAndPhiSlideInAllLayersWhereThereIsAWindow) {
  const ModelConfig mistral = parse_file("mistral.json");
  EXPECT_EQ(mistral.sliding_window, 32);
  EXPECT_TRUE(mistral.is_sliding(0) && mistral.is_sliding(3));
  EXPECT_EQ(parse(tiny("mistral")).sliding_window, 4096);
  json config = tiny("mistral");
  config["sliding_window"] = nullptr;
  config["attention_bias"] = true;  // its class has none
  EXPECT_EQ(parse(config).sliding_window, 0);
  EXPECT_FALSE(parse(config).is_sliding(0) || parse(config).qkv_bias);
  EXPECT_EQ(parse(tiny("phi3")).sliding_window, 0);
  EXPECT_EQ(parse(tiny("phi3")).rms_norm_eps, 1e-5);
}

TEST(ModelConfig, LongRopeHasTwoSetsOfFactors) {
  const RopeConfig rope = parse_file("phi3_longrope.json").rope;
  EXPECT_EQ(rope.type, RopeType::kLongRope);
  EXPECT_EQ(rope.original_max_position_embeddings, 64);
  EXPECT_EQ(rope.short_factor.size(), 16u);
  EXPECT_DOUBLE_EQ(rope.long_factor[1], 1.4);
  EXPECT_DOUBLE_EQ(rope.attention_factor,
                   std::sqrt(1 + std::log(4096.0 / 64) / std::log(64.0)));
  EXPECT_FALSE(rope.turns_long(64));
  EXPECT_TRUE(rope.turns_long(65));
  json config = read_json_object(kConfigs / "phi3_longrope.json");
  config["rope_scaling"]["long_factor"].push_back(1);
  expect_mentions(error_of(config), {"rope_scaling.long_factor", "16", "17"});
}

TEST(ModelConfig, GemmasLayersDiffer) {
  const ModelConfig three = parse_file("gemma3_text.json");
  EXPECT_TRUE(three.is_sliding(0));
  EXPECT_FALSE(three.is_sliding(5));
  EXPECT_EQ(three.rope.theta, 1e6);
  EXPECT_EQ(three.gemma.sliding_rope.theta, 1e4);
  EXPECT_EQ(three.mlp_gate, kernels::GluGate::kGeluTanh);
  EXPECT_TRUE(three.tie_word_embeddings);

  // What scales the context scales full attention only.
  json scaled = read_json_object(kConfigs / "gemma3_text.json");
  scaled["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  EXPECT_EQ(parse(scaled).rope.factor, 8);
  EXPECT_EQ(parse(scaled).gemma.sliding_rope.type, RopeType::kDefault);

  // A multimodal file says little of its text model.
  const ModelConfig sparse = parse({{"model_type", "gemma3"},
                                    {"text_config",
                                     {{"hidden_size", 2560},
                                      {"intermediate_size", 10240},
                                      {"num_hidden_layers", 34},
                                      {"sliding_window", 1024}}}});
  EXPECT_EQ(sparse.n_heads, 8);
  EXPECT_EQ(sparse.n_kv_heads, 4);
  EXPECT_EQ(sparse.vocab_size, 262208);
  EXPECT_FALSE(sparse.is_sliding(5));
  EXPECT_TRUE(sparse.is_sliding(33));

  const ModelConfig four = parse_file("gemma4_text.json");
  EXPECT_EQ(four.gemma.global_head_dim, 128);
  EXPECT_EQ(four.gemma.num_kv_shared_layers, 2);
  EXPECT_EQ(four.rope.type, RopeType::kProportional);
  EXPECT_EQ(four.rope.rotary_dim, 128);
  EXPECT_EQ(four.gemma.sliding_rope.rotary_dim, 64);
  EXPECT_EQ(four.gemma.final_logit_softcapping, 30);
  json moe = read_json_object(kConfigs / "gemma4_text.json");
  moe["enable_moe_block"] = true;
  moe["num_experts"] = 8;
  moe["top_k_experts"] = 9;
  expect_mentions(error_of(moe), {"top_k_experts", "8", "9"});
  moe["top_k_experts"] = 2;
  expect_mentions(error_of(moe), {"moe_intermediate_size"});
  moe["moe_intermediate_size"] = 96;
  EXPECT_EQ(parse(moe).experts.n_experts, 8);
  EXPECT_EQ(parse(moe).experts.n_active, 2);
  json by_layer = read_json_object(kConfigs / "gemma4_text.json");
  by_layer.erase("global_head_dim");
  by_layer["per_layer_config"] = {{"2", {{"head_dim", 96}}}, {"4", {{"head_dim", 96}}}};
  EXPECT_EQ(parse(by_layer).gemma.global_head_dim, 96);
  by_layer["per_layer_config"]["4"]["head_dim"] = 64;
  expect_mentions(error_of(by_layer), {"per_layer_config", "layer 4", "64"});
  by_layer["per_layer_config"]["4"] = 7;
  expect_mentions(error_of(by_layer), {"per_layer_config.4", "object"});
  json shared = read_json_object(kConfigs / "gemma4_text.json");
  shared["num_kv_shared_layers"] = 4;
  expect_mentions(error_of(shared), {"num_kv_shared_layers", "earlier layer"});
}

TEST(ModelConfig, SparseLayersAreTheConfigs) {
  const ModelConfig moe = parse_file("qwen3_moe.json");
  EXPECT_EQ(moe.experts.n_experts, 4);
  EXPECT_EQ(moe.experts.n_active, 2);
  EXPECT_EQ(moe.experts.intermediate_size, 128);
  EXPECT_EQ(moe.experts.shared_intermediate_size, 0);
  EXPECT_EQ(moe.experts.layers, std::vector<bool>(4, true));
  json config = read_json_object(kConfigs / "qwen3_moe.json");
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  EXPECT_EQ(parse(config).experts.layers,
            (std::vector<bool>{false, true, false, false}));
  config["num_experts_per_tok"] = 5;
  expect_mentions(error_of(config), {"num_experts_per_tok", "4", "5"});

  const ModelConfig hybrid = parse_file("qwen3_5_moe_vlm.json");
  EXPECT_EQ(hybrid.architecture, "qwen3_5_moe");
  EXPECT_EQ(hybrid.experts.shared_intermediate_size, 128);
  EXPECT_TRUE(hybrid.experts.normalize);
  EXPECT_EQ(hybrid.intermediate_size, 0);
}

TEST(ModelConfig, RopeScalingWinsOverRopeParameters) {
  json config = tiny("llama");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  EXPECT_EQ(parse(config).rope.theta, 5e5);
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  config["rope_theta"] = 20000;
  const RopeConfig rope = parse(config).rope;
  EXPECT_EQ(rope.type, RopeType::kLinear);
  EXPECT_EQ(rope.factor, 2);
  EXPECT_EQ(rope.theta, 20000);
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(config).rope.theta, 5e5);
}

TEST(ModelConfig, YarnScalesAttentionByTheLogarithmOfItsFactor) {
  json config = tiny("qwen3");
  config["rope_scaling"] = {{"rope_type", "yarn"},
                            {"factor", 4.0},
                            {"original_max_position_embeddings", 32768}};
  const RopeConfig rope = parse(config).rope;
  EXPECT_EQ(rope.type, RopeType::kYarn);
  EXPECT_DOUBLE_EQ(rope.attention_factor, 0.1 * std::log(4.0) + 1);
  EXPECT_EQ(rope.beta_fast, 32);
  EXPECT_EQ(rope.original_max_position_embeddings, 32768);
}

TEST(ModelConfig, TheGenerationConfigSaysWhereToStop) {
  json config = tiny("llama");
  config["eos_token_id"] = 3;
  EXPECT_EQ(parse(config).eos_token_ids, (std::vector<std::int64_t>{3}));
  EXPECT_EQ(parse(config, {{"eos_token_id", {5, 6}}}).eos_token_ids,
            (std::vector<std::int64_t>{5, 6}));
  EXPECT_EQ(parse(config, {{"eos_token_id", nullptr}}).eos_token_ids,
            (std::vector<std::int64_t>{3}));
}

TEST(ModelConfig, NonsenseNamesTheKeyWhatWasExpectedAndWhatWasFound) {
  struct Case {
    const char* patch;
    std::vector<const char*> expected;
  };
  const Case cases[] = {
      {R"({"model_type":"gpt5"})", {"model_type", "qwen3_5", "llama", "'gpt5'"}},
      {R"({"model_type":7})", {"model_type", "text", "7"}},
      {R"({"hidden_size":null})", {"hidden_size", "nothing"}},
      {R"({"hidden_size":-1})", {"hidden_size", "from 1 to", "-1"}},
      {R"({"hidden_size":0})", {"hidden_size", "0"}},
      {R"({"hidden_size":"128"})", {"hidden_size", "'128'"}},
      {R"({"hidden_size":128.5})", {"hidden_size", "128.5"}},
      {R"({"hidden_size":18446744073709551615})",
       {"hidden_size", "18446744073709551615"}},
      {R"({"num_hidden_layers":1000000000})", {"num_hidden_layers", "1000000000"}},
      {R"({"vocab_size":[1]})", {"vocab_size", "a list"}},
      {R"({"num_attention_heads":3})", {"num_key_value_heads", "divisor", "3", "2"}},
      {R"({"num_attention_heads":6})", {"num_attention_heads", "divisor", "128", "6"}},
      {R"({"head_dim":33})", {"head_dim", "even", "33"}},
      {R"({"rms_norm_eps":"x"})", {"rms_norm_eps", "'x'"}},
      {R"({"rms_norm_eps":-1e-6})", {"rms_norm_eps"}},
      {R"({"tie_word_embeddings":"yes"})", {"tie_word_embeddings", "'yes'"}},
      {R"({"hidden_act":"gelu"})", {"hidden_act", "silu", "'gelu'"}},
      {R"({"text_config":[]})", {"text_config", "an object"}},
      {R"({"layer_types":["full_attention"]})", {"layer_types", "4 entries", "1"}},
      {R"({"layer_types":["a","b","c","d"]})", {"layer_types", "full_attention", "a"}},
      {R"({"layer_types":["linear_attention","full_attention","full_attention",
           "full_attention"]})",
       {"layer_types", "llama", "linear_attention"}},
      {R"({"layer_types":["sliding_attention","full_attention","full_attention",
           "full_attention"]})",
       {"layer_types", "sliding_window"}},
      {R"({"rope_scaling":{"rope_type":"spiral"}})",
       {"rope_scaling.rope_type", "default, linear, llama3, yarn, longrope",
        "'spiral'"}},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":8}})",
       {"rope_scaling.low_freq_factor", "nothing"}},
      {R"({"rope_scaling":{"type":"linear","factor":0}})",
       {"rope_scaling.factor", "0"}},
      {R"({"rope_scaling":7})", {"rope_scaling", "an object", "7"}},
      {R"({"rope_theta":-1})", {"rope_theta", "-1"}},
      {R"({"partial_rotary_factor":0.1})", {"partial_rotary_factor", "even", "3"}},
      {R"({"eos_token_id":[1,"x"]})", {"eos_token_id", "a list"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.patch);
    json config = tiny("llama");
    const json patch = json::parse(c.patch);
    for (const auto& [key, value] : patch.items()) config[key] = value;
    const std::string message = error_of(config);
    expect_mentions(message, {"m/config.json: ", "expected ", ", found "});
    for (const char* part : c.expected) expect_mentions(message, {part});
  }
}

TEST(ModelConfig, AWrongKeyOfTheTextPartIsNamedWithItsPath) {
  json config = read_json_object(kConfigs / "qwen3_5_vlm.json");
  config["text_config"]["linear_num_value_heads"] = 3;
  config["text_config"]["linear_num_key_heads"] = 2;
  expect_mentions(error_of(config), {"text_config.linear_num_value_heads", "2", "3"});
  config["text_config"]["linear_num_key_heads"] = 1;
  config["text_config"]["rope_parameters"]["mrope_section"] = {1, 2, 3};
  expect_mentions(error_of(config),
                  {"text_config.rope_parameters.mrope_section", "32"});
}

// Whatever the values: a config that keeps its promises, or CheckpointError.
TEST(ModelConfig, NoValueGetsPastTheChecks) {
  const json values = json::parse(
      R"([null,true,-1,0,1,2,3,7,64,1e9,1e300,4294967296,0.5,"","x",[],{},[1],["x"],
          {"rope_type":"yarn"},{"type":"linear","factor":1e-300},[[[]]]])");
  std::mt19937 random(11);
  for (const char* name :
       {"qwen3_5_vlm.json", "llama_tied.json", "qwen2.json", "mistral.json",
        "gemma3_text.json", "gemma4_text.json", "phi3_longrope.json", "qwen3_moe.json",
        "qwen3_5_moe_vlm.json"}) {
    const json good = read_json_object(kConfigs / name);
    for (int i = 0; i < 3000; ++i) {
      json config = good;
      for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
        json& object = config.contains("text_config") && random() % 4 != 0 &&
                               config["text_config"].is_object()
                           ? config["text_config"]
                           : config;
        if (object.empty()) continue;
        auto key = object.begin();
        std::advance(key, random() % object.size());
        *key = values[random() % values.size()];
      }
      try {
        const ModelConfig parsed = parse(config);
        ASSERT_EQ(parsed.layer_types.size(),
                  static_cast<std::size_t>(parsed.num_hidden_layers));
        ASSERT_EQ(parsed.n_heads % parsed.n_kv_heads, 0);
        ASSERT_EQ(parsed.head_dim % 2, 0);
        ASSERT_GE(parsed.rope.rotary_dim, 2);
        ASSERT_LE(parsed.rope.rotary_dim,
                  std::max(parsed.head_dim, parsed.gemma.global_head_dim));
        const ExpertsConfig& experts = parsed.experts;
        ASSERT_LE(experts.n_active, experts.n_experts);
        if (experts.n_experts > 0) {
          ASSERT_EQ(experts.layers.size(), parsed.layer_types.size());
        }
        if (parsed.rope.type == RopeType::kLongRope) {
          ASSERT_EQ(2 * parsed.rope.long_factor.size(),
                    static_cast<std::size_t>(parsed.rope.rotary_dim));
        }
        for (int layer = 0; layer < parsed.num_hidden_layers; ++layer)
          ASSERT_TRUE(parsed.sliding_window > 0 || !parsed.is_sliding(layer));
      } catch (const CheckpointError&) {
      }
    }
  }
}

}  // namespace
}  // namespace optiq::checkpoint
