// convert as its users meet it: nothing lost, nothing half written.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "cli.h"

namespace optiq::testing {
namespace {

TEST_F(Cli, WorkThatCannotBeSavedIsNotBegun) {
  const std::string nowhere = file("missing/summary.json");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"info", "--json", nowhere},
        {"info", "--json", directory_},
        {"generate", "demo", "-p", "a", "--json", nowhere},
        {"inspect", "demo", "--html", nowhere},
        {"logits", "demo", "--input-ids", ids_file(7), "-o", directory_},
        {"kv-cache", "demo", "-o", "/dev/null"},
        {"kv-cache", "demo", "-o", "/proc/optiq/out"},
        {"kv-cache", "demo", "-o", file("out"), "--calibration", nowhere},
        {"kv-cache", "demo", "-o", file("out"), "--target-bits", "3"},
        {"kv-cache", "demo", "-o", file("out"), "--candidate-bits", "4,7"},
        {"kv-cache", "demo", "-o", file("out"), "--format", "turbo", "--candidate-bits",
         "8"},
        {"kv-cache", "demo", "-o", file("out"), "--group-size", "48"},
        {"kv-cache", "demo", "-o", file("out"), "--seq-len", "100000"},
        {"convert", "demo", "-o", "/dev/null"},
        {"convert", "demo", "-o", "/proc/optiq/out"},
        {"convert", "demo", "-o", file("out"), "--sensitivity", nowhere},
        {"convert", "demo", "-o", file("out"), "--target-size", "1MB"},
        {"convert", "demo", "-o", file("out"), "--target-bpw", "3.5",
         "--candidate-bits", "4,8"}}) {
    SCOPED_TRACE(json(arguments).dump());
    const auto begin = std::chrono::steady_clock::now();
    const Outcome outcome = run(arguments);
    EXPECT_TRUE(outcome.status == 1 || outcome.status == 2) << outcome.status;
    expect_one_error_line(outcome);
    // Measuring takes a minute, on a busy machine several.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  }
  EXPECT_FALSE(fs::exists(file("out")));
  for (const std::string& name : files())
    EXPECT_EQ(name.find(".out"), std::string::npos) << name;
}

// A model that optiq did not write is never the price of one that it does.
TEST_F(Cli, ConvertReplacesNoModelButItsOwn) {
  const fs::path demo = OPTIQ_SOURCE_DIR "/models/demo";
  fs::create_directories(file("model"));
  for (const auto& entry : fs::directory_iterator(demo))
    fs::copy_file(entry, file("model") / entry.path().filename());
  const auto convert = [&](const fs::path& output) {
    return run({"convert", file("model"), "-o", output, "--method", "static",
                "--n-calibration", "1", "--calibration-length", "16",
                "--skip-baselines", "-q"});
  };
  const Outcome refused = convert(file("model"));
  EXPECT_EQ(refused.status, 2);
  expect_one_error_line(refused);
  EXPECT_TRUE(fs::exists(file("model") / "model-00001-of-00002.safetensors"));
  EXPECT_EQ(convert(file("out")).status, 0);
  EXPECT_EQ(convert(file("out")).status, 0);
  EXPECT_TRUE(fs::exists(file("out") / "optiq/metadata.json"));
}

TEST_F(Cli, ConvertGoesOnWhereAKilledRunStoodAndCleansUpBehindIt) {
  const std::vector<std::string> arguments = {"convert",
                                              "demo",
                                              "-o",
                                              file("deep/out"),
                                              "--candidate-bits",
                                              "4,8",
                                              "--n-calibration",
                                              "2",
                                              "--calibration-length",
                                              "32",
                                              "--skip-baselines",
                                              "--no-refine",
                                              "--measure",
                                              "exact",
                                              "-q"};
  const fs::path saved = file("deep/.out.sensitivity.json");
  const pid_t child = start(arguments);
  for (int i = 0; i < 6000 && !fs::exists(saved); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ::kill(child, SIGKILL);
  finish(child);
  ASSERT_TRUE(fs::exists(saved));
  EXPECT_FALSE(fs::exists(file("deep/out")));
  auto again = arguments;
  again.push_back("--resume");
  const Outcome outcome = run(again);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(file("deep")))
    left.push_back(entry.path().filename());
  EXPECT_EQ(left, std::vector<std::string>{"out"});
  // What was measured before and after the break is what one run measures.
  auto unbroken = arguments;
  unbroken[3] = file("unbroken");
  EXPECT_EQ(run(unbroken).status, 0);
  for (const char* name : {"model.safetensors", "optiq/sensitivity.json"})
    EXPECT_TRUE(read_text(file("deep/out") / name) ==
                read_text(file("unbroken") / name))
        << name;
}

}  // namespace
}  // namespace optiq::testing
