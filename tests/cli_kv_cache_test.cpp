// Quantized caches from the flags to the summary, and kv-cache.
#include <filesystem>

#include "cli.h"

namespace optiq::testing {
namespace {

TEST_F(Cli, TheCacheIsQuantizedAsTheFlagsSay) {
  const auto summary_of = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--json", "-", "-q"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(outcome.out);
  };
  const json in_float = summary_of({"generate", "demo", "-p", "What is 50 * 6?"});
  const json in_bits = summary_of({"generate", "demo", "-p", "What is 50 * 6?",
                                   "--kv-bits", "4", "--kv-format", "turbo"});
  // Two attention layers of 2 heads of 64 values, K and V.
  EXPECT_EQ(in_float.at("kv_bytes_per_token"), 2 * 2 * 2 * 64 * 2);
  EXPECT_EQ(in_float.at("kv_formats")[0],
            json({{"layer_idx", 3}, {"k", "f16"}, {"v", "f16"}}));
  EXPECT_EQ(in_bits.at("kv_bytes_per_token"), 2 * 2 * 2 * (64 / 2 + 2));
  EXPECT_EQ(in_bits.at("kv_formats")[1],
            json({{"layer_idx", 7}, {"k", "turbo 4-bit"}, {"v", "turbo 4-bit"}}));

  write_text(file("kv.json"), R"([{"layer_idx": 3, "bits": 8, "group_size": 64},
                                  {"layer_idx": 7, "bits": 2, "group_size": 64}])");
  const std::vector<std::string> perplexity = {
      "eval", "demo", "--task", "perplexity", "--n-samples", "2", "--length", "256"};
  auto coded = perplexity;
  coded.insert(coded.end(), {"--kv-config", file("kv.json")});
  const json damaged = summary_of(coded);
  EXPECT_EQ(damaged.at("kv_formats")[0].at("k"), "affine 8-bit group 64");
  EXPECT_EQ(damaged.at("kv_formats")[1].at("v"), "affine 2-bit group 64");
  EXPECT_NE(damaged.at("nll"), summary_of(perplexity).at("nll"));
}

TEST_F(Cli, KvCacheWritesWhatGenerateAndInspectTake) {
  const Outcome outcome =
      run({"kv-cache", "demo", "-o", file("kv"), "--n-samples", "2", "--seq-len", "64",
           "--target-bits", "6", "--center-keys", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json summary = json::parse(outcome.out);
  for (const char* key : {"output", "layers", "average_bits", "bytes_per_token",
                          "kl_mean", "kl_p99", "baselines"})
    EXPECT_TRUE(summary.contains(key)) << key;
  for (const char* name : {"uniform_4bit", "uniform_8bit"})
    EXPECT_TRUE(summary.at("baselines").at(name).contains("kl_p99")) << name;
  EXPECT_EQ(summary.at("average_bits"), 6);

  const std::string config = file("kv/kv_config.json");
  const Outcome answer = run({"generate", "demo", "-p", "What is 50 * 6?",
                              "--kv-config", config, "--json", "-", "-q"});
  ASSERT_EQ(answer.status, 0) << answer.err;
  EXPECT_EQ(json::parse(answer.out).at("kv_bytes_per_token"),
            summary.at("bytes_per_token"));
  const Outcome shown = run({"inspect", "demo", "--kv-config", config, "--html",
                             file("page.html"), "--json", "-"});
  ASSERT_EQ(shown.status, 0) << shown.err;
  EXPECT_EQ(json::parse(shown.out).at("kv_cache").size(), 2u);
  EXPECT_NE(read_text(file("page.html")).find("KV cache"), std::string::npos);

  // A damaged file of channels is named.
  fs::resize_file(file("kv/kv_channels.safetensors"), 100);
  const Outcome broken = run({"generate", "demo", "-p", "a", "--kv-config", config});
  EXPECT_EQ(broken.status, 1);
  expect_one_error_line(broken);
  EXPECT_NE(broken.err.find("kv_channels"), std::string::npos) << broken.err;
}

TEST_F(Cli, AKvConfigThatIsNotTheModelsIsOneLineAndExitsWithOne) {
  for (const char* text :
       {"[{\"layer_idx\": 0, \"bits\": 4}]", "[{\"layer_idx\": 8, \"bits\": 4}]",
        "[{\"layer_idx\": 3, \"bits\": 7}]", "[3]", "{}", "["}) {
    SCOPED_TRACE(text);
    write_text(file("kv.json"), text);
    const Outcome outcome =
        run({"generate", "demo", "-p", "a", "--kv-config", file("kv.json")});
    EXPECT_EQ(outcome.status, 1);
    expect_one_error_line(outcome);
    EXPECT_NE(outcome.err.find("kv.json"), std::string::npos) << outcome.err;
  }
}

}  // namespace
}  // namespace optiq::testing
