// What a conversion holds when the model's own weights count as too large.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "optiq/base/memory.h"
#include "optiq/checkpoint/safetensors.h"
#include "optiq/convert/convert.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // they hold memory of their own
#else
constexpr bool kSanitized = false;
#endif

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
using checkpoint::DataType;
using checkpoint::TensorEntry;

// Memory that the system cannot drop and read again: pages of a mapped file are not
// counted. 0 where the system does not say.
std::int64_t anonymous_bytes() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("RssAnon:")) return 1024 * std::stoll(line.substr(8));
  return 0;
}

class AnonymousPeak {
 public:
  AnonymousPeak() : start_(anonymous_bytes()) {
    watcher_ = std::thread([this] {
      while (!done_) {
        peak_ = std::max(peak_, anonymous_bytes());
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  }
  ~AnonymousPeak() { stop(); }
  /// Growth since the beginning.
  std::int64_t stop() {
    done_ = true;
    if (watcher_.joinable()) watcher_.join();
    return peak_ - start_;
  }

 private:
  std::int64_t start_;
  std::int64_t peak_ = 0;  // the watcher's until it is joined
  std::atomic<bool> done_ = false;
  std::thread watcher_;
};

// A Qwen3 of random bfloat16 weights with the demo's tokenizer. Returns bytes of its
// tensors.
std::int64_t write_random_model(const fs::path& directory) {
  constexpr std::int64_t kWidth = 512, kInner = 2048, kLayers = 24, kVocab = 8192;
  const fs::path demo = fs::path(OPTIQ_SOURCE_DIR) / "models/demo";
  fs::create_directories(directory);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"})
    fs::copy_file(demo / name, directory / name);
  const nlohmann::json config = {{"architectures", {"Qwen3ForCausalLM"}},
                                 {"model_type", "qwen3"},
                                 {"attention_bias", false},
                                 {"head_dim", 64},
                                 {"hidden_act", "silu"},
                                 {"hidden_size", kWidth},
                                 {"intermediate_size", kInner},
                                 {"max_position_embeddings", 4096},
                                 {"num_attention_heads", 8},
                                 {"num_hidden_layers", kLayers},
                                 {"num_key_value_heads", 4},
                                 {"rms_norm_eps", 1e-6},
                                 {"rope_theta", 1e6},
                                 {"tie_word_embeddings", true},
                                 {"torch_dtype", "bfloat16"},
                                 {"vocab_size", kVocab}};
  std::ofstream(directory / "config.json") << config;

  std::vector<TensorEntry> entries = {
      {"model.embed_tokens.weight", DataType::kBF16, {kVocab, kWidth}},
      {"model.norm.weight", DataType::kBF16, {kWidth}}};
  for (int i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto add = [&](const char* name, std::vector<std::int64_t> shape) {
      entries.push_back({layer + name + ".weight", DataType::kBF16, std::move(shape)});
    };
    add("input_layernorm", {kWidth});
    add("post_attention_layernorm", {kWidth});
    add("self_attn.q_proj", {512, kWidth});
    add("self_attn.k_proj", {256, kWidth});
    add("self_attn.v_proj", {256, kWidth});
    add("self_attn.o_proj", {kWidth, 512});
    add("self_attn.q_norm", {64});
    add("self_attn.k_norm", {64});
    add("mlp.gate_proj", {kInner, kWidth});
    add("mlp.up_proj", {kInner, kWidth});
    add("mlp.down_proj", {kWidth, kInner});
  }
  checkpoint::SafetensorsWriter writer(directory / "model.safetensors", entries, {});
  std::uint32_t state = 1;
  std::int64_t bytes = 0;
  for (const TensorEntry& entry : entries) {
    std::size_t n = 1;
    for (std::int64_t d : entry.shape) n *= static_cast<std::size_t>(d);
    std::vector<std::uint16_t> values(n, 0x3f80);  // ones
    if (entry.shape.size() > 1)
      for (std::uint16_t& value : values) {  // of either sign, 2^-7 to 2^-5
        state = state * 1664525 + 1013904223;
        value = static_cast<std::uint16_t>(0x3c00 + (state >> 24) +
                                           ((state >> 8) & 0x8000));
      }
    writer.write(entry.name, std::as_bytes(std::span(values)));
    bytes += static_cast<std::int64_t>(2 * n);
  }
  writer.finish();
  return bytes;
}

class ConvertMemory : public ::testing::TestWithParam<Measuring> {};

TEST_P(ConvertMemory, AModelMeasuredInFourBitsIsNeverHeldInFloat) {
  if (kSanitized || anonymous_bytes() == 0) GTEST_SKIP() << "memory cannot be told";
  const fs::path work =
      fs::temp_directory_path() / ("optiq-memory-test-" + std::to_string(::getpid()));
  fs::remove_all(work);
  const std::int64_t float_bytes = write_random_model(work / "model");
  Options o;
  o.model = work / "model";
  o.model_name = "random";
  o.output = work / "out";
  o.reference = ReferenceChoice::kUniform4Bit;
  o.measuring = GetParam();
  o.candidate_bits = {4, 8};
  o.n_calibration = 1;
  o.calibration_length = 16;
  o.skip_baselines = true;
  o.refine = false;
  o.protection = Protection::kOff;
  o.rounding = quantize::Search::kMlx;  // sooner done
  AnonymousPeak peak;
  const Result result = convert(o);
  const std::int64_t held = peak.stop();
  fs::remove_all(work);
  RecordProperty("float_bytes", std::to_string(float_bytes));
  RecordProperty("held_bytes", std::to_string(held));
  // Gradients are by the model's own weights.
  EXPECT_EQ(result.reference, GetParam() == Measuring::kExact
                                  ? sensitivity::Reference::kUniform4Bit
                                  : sensitivity::Reference::kBf16);
  // The copy in at most 5 bits with its scales (5/16 of the float bytes), a sixteenth
  // each for logits, kept encodings and freed memory, and about 50 MB for a matrix on
  // its way and for the program.
  EXPECT_LT(held, float_bytes / 16 * (5 + 3) + (50 << 20))
      << "of " << float_bytes << " bytes in float";
}

INSTANTIATE_TEST_SUITE_P(Measured, ConvertMemory,
                         ::testing::Values(Measuring::kExact, Measuring::kGradient),
                         [](const auto& measured) {
                           return measured.param == Measuring::kExact ? "Exactly"
                                                                      : "ByGradients";
                         });

}  // namespace
}  // namespace optiq::convert
