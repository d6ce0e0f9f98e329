// Adapters from training to a model with one built in, and what is refused on the way.
#include <filesystem>

#include "cli.h"

namespace optiq::testing {
namespace {

namespace fs = std::filesystem;

class CliLora : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    fs::create_directory(file("data"));
    std::string lines;
    for (int i = 0; i < 24; ++i)
      lines += R"({"prompt": "say )" + std::to_string(i) +
               R"(", "completion": "ruby ruby"})" + "\n";
    write_text(file("data/train.jsonl"), lines);
    write_text(file("data/valid.jsonl"), lines);
  }

  json summary_of(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--json", "-", "-q"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(outcome.out);
  }

  json train(const std::string& output, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"lora",
                                       "train",
                                       "demo",
                                       "--data",
                                       file("data"),
                                       "-o",
                                       output,
                                       "--mask-prompt",
                                       "--rank",
                                       "4",
                                       "--scale",
                                       "2",
                                       "--learning-rate",
                                       "1e-2",
                                       "--batch-size",
                                       "8"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return summary_of(arguments);
  }
};

TEST_F(CliLora, WhatIsTrainedCanBeShownUsedMergedAndBuiltIn) {
  const std::string adapter = file("adapter");
  const json trained = train(adapter, {"--iters", "12"});
  for (const char* key : {"output", "trainable_params", "ranks", "train_loss",
                          "val_loss", "tokens_per_s", "peak_rss_bytes"})
    EXPECT_TRUE(trained.contains(key)) << key;
  EXPECT_LT(trained.at("val_loss").back().at("loss"),
            trained.at("val_loss").front().at("loss"));

  const json info = summary_of({"lora", "info", adapter});
  EXPECT_EQ(info.at("rank_scaling"), "by_bits");
  EXPECT_EQ(info.at("ranks").size(), trained.at("ranks").size());
  EXPECT_EQ(info.at("r"), 4);
  EXPECT_EQ(info.at("alpha"), 8);

  const auto answer = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments{"generate", "demo", "-p", "say 7"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return summary_of(arguments).at("text").get<std::string>();
  };
  EXPECT_EQ(answer({}).find("ruby"), std::string::npos);
  const std::string adapted = answer({"--adapter", adapter});
  EXPECT_NE(adapted.find("ruby"), std::string::npos);

  summary_of(
      {"lora", "merge", "demo", adapter, "-o", file("merged"), "--weights", "1"});
  EXPECT_EQ(answer({"--adapter", file("merged")}), adapted);
  summary_of({"lora", "export", "demo", adapter, "-o", file("fused"), "--fuse"});
  const json fused = summary_of({"generate", file("fused"), "-p", "say 7"});
  EXPECT_EQ(fused.at("text"), adapted);
}

TEST_F(CliLora, ARunGoesOnOnlyWhereItIsAsked) {
  const std::string adapter = file("adapter");
  train(adapter, {"--iters", "2"});
  const Outcome again =
      run({"lora", "train", "demo", "--data", file("data"), "-o", adapter});
  EXPECT_EQ(again.status, 2);
  EXPECT_NE(again.err.find("--resume"), std::string::npos);
  EXPECT_EQ(train(adapter, {"--iters", "3", "--resume"}).at("steps"), 3);
}

TEST_F(CliLora, MistakesAreOneLineWithTheRightStatus) {
  const auto fails = [&](int status, std::vector<std::string> arguments,
                         const std::string& said) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1)
        << outcome.err;
  };
  fails(2, {"lora"}, "'optiq lora --help'");
  fails(2, {"lora", "teach"}, "unknown command 'teach'");
  fails(
      2,
      {"lora", "train", "demo", "--data", "x", "-o", "y", "--rank-scaling", "by_luck"},
      "by_luck");
  fails(1, {"lora", "train", "demo", "--data", file("nothing"), "-o", file("y"), "-q"},
        "train.jsonl");
  fails(1, {"lora", "info", file("data")}, "adapter_config.json");
  fails(1, {"generate", "demo", "-p", "x", "--adapter", file("data"), "-q"},
        "adapter_config.json");
  fails(2,
        {"lora", "train", "demo", "--data", file("data"), "-o", file("y"),
         "--target-modules", "w1", "-q"},
        "w1");
  EXPECT_FALSE(fs::exists(file("y")));
}

}  // namespace
}  // namespace optiq::testing
