// The program as its users meet it: exit codes, one-line errors, whole files or none.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "cli.h"

namespace optiq::testing {
namespace {

TEST_F(Cli, WrongUsageIsOneLineWithAHintAndExitsWithTwo) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"train"},
      {"--frobnicate"},
      {"info", "--frobnicate"},
      {"info", "surplus"},
      {"info", "--threads", "0"},
      {"info", "--device", "tpu"},
      {"info", "-v", "-q"},
      {"generate"},
      {"generate", "demo"},
      {"generate", "demo", "-p", "a", "--messages", "b"},
      {"generate", "demo", "-p", "a", "--temp", "-1"},
      {"generate", "demo", "-p", "a", "--top-p", "2"},
      {"generate", "demo", "-p", "a", "--max-tokens", "many"},
      {"generate", "demo", "-p", "a", "--adaptor", "x"},
      {"generate", "demo", "-p", "a", "--kv-bits", "7"},
      {"generate", "demo", "-p", "a", "--kv-bits", "8", "--kv-format", "turbo"},
      {"generate", "demo", "-p", "a", "--kv-bits", "4", "--kv-group-size", "48"},
      {"generate", "demo", "-p", "a", "--kv-bits", "4", "--kv-config", "kv.json"},
      {"generate", "demo", "-p", "a", "--kv-format", "turbo"},
      {"chat", "demo", "--kv-bits", "4", "--kv-format", "nf4"},
      {"benchmark", "demo", "--quantized-kv-start", "-1"},
      {"generate", "demo", "-p", "a", "--chat-template-config", "[]"},
      {"logits", "demo", "--input-ids", "x.json"},
      {"eval", "demo"},
      {"eval", "demo", "--task", "trivia"},
      {"eval", "demo", "--task", "kl"},
      {"eval", "demo", "--task", "gsm8k"},
      {"eval", "demo", "--task", "tools", "--length", "512"},
      {"eval", "demo", "--task", "needle", "--length", "20"},
      {"eval", "demo", "--task", "needle", "--length", "512,x"},
      {"eval", "demo", "--task", "needle", "--length", "512,"},
      {"eval", "demo", "--task", "needle", "--length", ",512"},
      {"eval", "demo", "--task", "needle", "--distractors", "8"},
      {"eval", "demo", "--task", "hashhop", "--distractors", "1"},
      {"eval", "demo", "--task", "perplexity", "--length", "256,512"},
      {"eval", "demo", "--task", "perplexity", "--length", "100000"},
      {"benchmark", "demo", "--depth", "1,x"},
      {"benchmark", "demo", "--batch", "1,,2"},
      {"benchmark", "demo", "--depth", "100000"},
      {"benchmark", "demo", "--prompt", "0", "--decode", "0"},
      {"convert", "demo", "--target-bpw", "nan"},
      {"convert", "demo", "--target-bpw", "0.5"},
      {"convert", "demo", "--target-size", ""},
      {"convert", "demo", "--target-size", "4.8"},
      {"convert", "demo", "--target-size", "0"},
      {"convert", "demo", "--method", "magic"},
      {"convert", "demo", "--candidate-bits", "four"},
      {"convert", "demo", "--candidate-bits", "4,8,"},
      {"kv-cache", "demo"},
      {"kv-cache", "demo", "-o", "kv", "--target-bits", "nan"},
      {"kv-cache", "demo", "-o", "kv", "--format", "nf4"},
      {"kv-cache", "demo", "-o", "kv", "--n-samples", "0"},
      {"eval", "demo", "--task", "perplexity", "--n-samples", "-1"},
      {"generate", "demo", "-p", "a", "--min-p", "nan"},
      {"generate", "demo", "-p", "a", "--temp", "inf"},
      {"generate", "demo", "-p", "a", "--seed", "-1"},
      {"pull"},
  };
  for (const auto& arguments : wrong) {
    SCOPED_TRACE(json(arguments).dump());
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 2);
    expect_one_error_line(outcome);
    EXPECT_NE(outcome.err.find("--help'"), std::string::npos) << outcome.err;
  }
}

TEST_F(Cli, UnknownFlagsAreNamed) {
  EXPECT_NE(
      run({"generate", "demo", "-p", "a", "--adaptor", "x"}).err.find("--adaptor"),
      std::string::npos);
  EXPECT_NE(run({"trian"}).err.find("'trian'"), std::string::npos);
}

TEST_F(Cli, HelpAndVersionGoToStdout) {
  for (const char* command : {"generate", "chat", "logits", "eval", "benchmark", "pull",
                              "info", "convert", "inspect"}) {
    SCOPED_TRACE(command);
    const Outcome outcome = run({command, "--help"});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_NE(outcome.out.find("--json"), std::string::npos);
    EXPECT_EQ(outcome.err, "");
  }
  EXPECT_EQ(run({"--help"}).status, 0);
  EXPECT_EQ(run({"--version"}).out.rfind("optiq ", 0), 0u);
}

TEST_F(Cli, AMissingModelIsNamed) {
  const Outcome outcome = run({"generate", file("nowhere"), "-p", "hello"});
  EXPECT_NE(outcome.status, 0);
  expect_one_error_line(outcome);
  EXPECT_NE(outcome.err.find("nowhere"), std::string::npos) << outcome.err;
}

TEST_F(Cli, ABrokenCheckpointIsNamedAndExitsWithOne) {
  const fs::path demo = OPTIQ_SOURCE_DIR "/models/demo";
  fs::create_directories(file("broken"));
  for (const auto& entry : fs::directory_iterator(demo))
    fs::copy_file(entry, file("broken") / entry.path().filename());
  const fs::path shard = file("broken") / "model-00001-of-00002.safetensors";
  fs::resize_file(shard, fs::file_size(shard) / 2);
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"generate", file("broken"), "-p", "hello"},
        {"benchmark", file("broken")},
        {"eval", file("broken"), "--task", "perplexity"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 1);
    expect_one_error_line(outcome);
    EXPECT_NE(outcome.err.find("model-00001-of-00002.safetensors"), std::string::npos)
        << outcome.err;
  }
}

TEST_F(Cli, CtrlCDuringLogitsLeavesTheOldFileAndNothingElse) {
  const std::string ids = ids_file(16384);
  write_text(file("logits.safetensors"), "old");
  const pid_t child =
      start({"logits", "demo", "--input-ids", ids, "-o", file("logits.safetensors")});
  ASSERT_TRUE(wait_for_output("stderr"));  // the first tenth
  ::kill(child, SIGTERM);
  EXPECT_EQ(finish(child).status, 130);
  EXPECT_EQ(read_text(file("logits.safetensors")), "old");
  auto names = files();
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"ids.json", "logits.safetensors", "stderr",
                                             "stdin", "stdout"}));
}

TEST_F(Cli, LogitsAreOneRowAToken) {
  const Outcome outcome = run({"logits", "demo", "--input-ids", ids_file(7), "--exact",
                               "-o", file("logits.safetensors"), "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(json::parse(outcome.out).at("tokens"), 7);
  const std::string bytes = read_text(file("logits.safetensors"));
  const auto length =
      static_cast<std::size_t>(static_cast<unsigned char>(bytes[0]) +
                               256 * static_cast<unsigned char>(bytes[1]));
  const json header = json::parse(bytes.substr(8, length));
  EXPECT_EQ(header.at("logits").at("shape"), json({7, 8192}));
  EXPECT_EQ(header.at("logits").at("dtype"), "F32");
  EXPECT_EQ(bytes.size(), 8 + length + 7 * 8192 * 4);
}

TEST_F(Cli, OutputThatCannotBeWrittenFailsInOneLine) {
  const Outcome outcome = run({"logits", "demo", "--input-ids", ids_file(7), "-o",
                               file("missing/logits.safetensors")});
  EXPECT_EQ(outcome.status, 1);
  expect_one_error_line(outcome);
  if (fs::exists("/dev/full")) {
    const Outcome full = run({"info"}, "", "/dev/full");
    EXPECT_EQ(full.status, 1);
    EXPECT_NE(full.err.find("stdout"), std::string::npos) << full.err;
  }
}

TEST_F(Cli, AClosedStreamIsNeverAnotherFile) {
  const auto shell = [&](const std::string& rest) {
    const std::string command = std::string(OPTIQ_PROGRAM) + " " + rest;
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string err = " 2>" + file("err").string();
  EXPECT_EQ(shell("generate demo -p - <&-" + err), 1);
  EXPECT_NE(read_text(file("err")).find("stdin"), std::string::npos);
  EXPECT_EQ(shell("generate demo -p hi --max-tokens 2 >&-" + err), 1);
  EXPECT_NE(read_text(file("err")).find("stdout"), std::string::npos);
  const std::string logits = file("logits.safetensors");
  shell("logits demo -q --input-ids " + ids_file(7) + " -o " + logits);
  const std::string expected = read_text(logits);
  fs::remove(logits);
  shell("logits demo -v --input-ids " + ids_file(7) + " -o " + logits +
        " <&- >&- 2>&-");
  EXPECT_EQ(read_text(logits), expected);
}

TEST_F(Cli, SequencesThatDoNotFitTheMemoryAreRefused) {
  const json info = json::parse(run({"info", "--json", "-"}).out);
  // 4096 x 16001 tokens of the demo are some 60 GB.
  if (info.at("available_memory_bytes") > 50e9) GTEST_SKIP() << "they would fit";
  const Outcome outcome = run(
      {"benchmark", "demo", "--batch", "4096", "--depth", "16000", "--decode", "1"});
  EXPECT_EQ(outcome.status, 1);
  expect_one_error_line(outcome);
  EXPECT_NE(outcome.err.find("--batch"), std::string::npos) << outcome.err;
}

TEST_F(Cli, AThreadCountFromTheEnvironmentIsChecked) {
  ::setenv("OPTIQ_THREADS", "zero", 1);
  const Outcome outcome = run({"generate", "demo", "-p", "hi", "--max-tokens", "1"});
  ::unsetenv("OPTIQ_THREADS");
  EXPECT_EQ(outcome.status, 2);
  expect_one_error_line(outcome);
  EXPECT_NE(outcome.err.find("OPTIQ_THREADS"), std::string::npos) << outcome.err;
}

TEST_F(Cli, ErrorsAreJsonLinesWhereAskedFor) {
  const Outcome outcome =
      run({"generate", file("nowhere"), "-p", "hello", "--log-format", "json"});
  EXPECT_NE(outcome.status, 0);
  const json line = json::parse(outcome.err);
  EXPECT_EQ(line.at("level"), "error");
  EXPECT_NE(line.at("message").get<std::string>().find("nowhere"), std::string::npos);
}

TEST_F(Cli, InfoNamesWhatIsInUse) {
  const json summary = json::parse(run({"info", "--threads", "1", "--json", "-"}).out);
  EXPECT_EQ(summary.at("threads"), 1);
  const auto& known = summary.at("simd_supported");
  EXPECT_NE(std::ranges::find(known, summary.at("simd")), known.end());
}

}  // namespace
}  // namespace optiq::testing
