// The program as its users meet it: exit codes, one-line errors, whole files or none.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Outcome {
  int status;
  std::string out;
  std::string err;
};

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        fs::temp_directory_path() / ("optiq_cli_test_" + std::to_string(::getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path file(const std::string& name) const { return directory_ / name; }

  pid_t start(std::vector<std::string> arguments, const std::string& input = "",
              const std::string& out = "") const {
    arguments.insert(arguments.begin(), OPTIQ_PROGRAM);
    write_text(file("stdin"), input);
    const pid_t child = ::fork();
    if (child != 0) return child;
    const auto redirect = [](const std::string& path, int flags, int target) {
      const int fd = ::open(path.c_str(), flags, 0600);
      if (fd < 0 || ::dup2(fd, target) < 0) ::_exit(99);
    };
    redirect(file("stdin"), O_RDONLY, 0);
    constexpr int kCreate = O_WRONLY | O_CREAT | O_TRUNC;
    redirect(out.empty() ? file("stdout").string() : out, kCreate, 1);
    redirect(file("stderr"), kCreate, 2);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(98);
  }

  Outcome finish(pid_t child) const {
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
            read_text(file("stdout")), read_text(file("stderr"))};
  }

  Outcome run(std::vector<std::string> arguments, const std::string& input = "",
              const std::string& out = "") const {
    return finish(start(std::move(arguments), input, out));
  }

  // Waits until the program has written something.
  bool wait_for_output(const char* name) const {
    for (int i = 0; i < 3000; ++i) {
      std::error_code ignored;
      const auto size = fs::file_size(file(name), ignored);
      if (!ignored && size > 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::string ids_file(int n) const {
    write_text(file("ids.json"),
               json(std::vector<int>(static_cast<std::size_t>(n), 5)).dump());
    return file("ids.json");
  }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_))
      names.push_back(entry.path().filename());
    return names;
  }

  fs::path directory_;
};

void expect_one_error_line(const Outcome& outcome) {
  EXPECT_EQ(outcome.err.rfind("optiq: error: ", 0), 0u) << outcome.err;
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

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
      {"generate", "demo", "-p", "a", "--adapter", "x"},
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
      {"eval", "demo", "--task", "perplexity", "--length", "256,512"},
      {"eval", "demo", "--task", "perplexity", "--length", "100000"},
      {"benchmark", "demo", "--depth", "1,x"},
      {"benchmark", "demo", "--depth", "100000"},
      {"benchmark", "demo", "--prompt", "0", "--decode", "0"},
      {"convert", "demo", "--target-bpw", "nan"},
      {"convert", "demo", "--target-bpw", "0.5"},
      {"convert", "demo", "--target-size", ""},
      {"convert", "demo", "--target-size", "4.8"},
      {"convert", "demo", "--target-size", "0"},
      {"convert", "demo", "--method", "magic"},
      {"convert", "demo", "--candidate-bits", "four"},
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
      run({"generate", "demo", "-p", "a", "--adapter", "x"}).err.find("--adapter"),
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

TEST_F(Cli, APromptOneTokenTooLongSaysSo) {
  const Outcome outcome =
      run({"generate", "demo", "--input-ids", ids_file(16385), "--max-tokens", "1"});
  EXPECT_EQ(outcome.status, 2);
  expect_one_error_line(outcome);
  EXPECT_NE(outcome.err.find("16384"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("16385"), std::string::npos) << outcome.err;
}

TEST_F(Cli, IdsThatAreNoTokensAreNamed) {
  for (const char* ids : {"[1, 2, 8192]", "[1, -1]", "[]", "{}", "[1.5]",
                          "[99999999999]", "not json", "[\"a\"]"}) {
    SCOPED_TRACE(ids);
    write_text(file("ids.json"), ids);
    const Outcome outcome = run({"generate", "demo", "--input-ids", file("ids.json")});
    EXPECT_NE(outcome.status, 0);
    expect_one_error_line(outcome);
  }
}

TEST_F(Cli, TheSummaryOfGenerateHasItsKeysAndStdoutNothingElse) {
  const Outcome outcome =
      run({"generate", "demo", "-p", "What is 50 * 6?", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const json summary = json::parse(outcome.out);
  EXPECT_EQ(summary.at("text"), "50 * 6 = 300\n#### 300");
  EXPECT_EQ(summary.at("finish_reason"), "stop");
  EXPECT_EQ(summary.at("prompt_tokens"), 17);
  EXPECT_EQ(summary.at("completion_tokens"), summary.at("tokens").size());
  EXPECT_GT(summary.at("prefill_tps"), 0);
  EXPECT_GT(summary.at("decode_tps"), 0);
  EXPECT_GT(summary.at("peak_rss_bytes"), 1 << 20);
}

TEST_F(Cli, PromptsOfEveryFormMeanTheSame) {
  const std::string text = "What is 50 * 6?";
  const Outcome expected = run({"generate", "demo", "-q", "-p", text});
  EXPECT_EQ(expected.out, "50 * 6 = 300\n#### 300\n");
  write_text(file("messages.json"),
             json::array({{{"role", "user"}, {"content", text}}}).dump());
  EXPECT_EQ(run({"generate", "demo", "-q", "--messages", file("messages.json")}).out,
            expected.out);
  EXPECT_EQ(run({"generate", "demo", "-q", "-p", "-"}, text).out, expected.out);
  EXPECT_EQ(run({"generate", "demo", "-q", "--raw", "-p",
                 "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n"})
                .out,
            expected.out);
}

TEST_F(Cli, StopTextEndsTheAnswerBeforeIt) {
  EXPECT_EQ(
      run({"generate", "demo", "-q", "-p", "What is 50 * 6?", "--stop", "\n####"}).out,
      "50 * 6 = 300\n");
}

TEST_F(Cli, SamplingRepeatsWithItsSeedAndOnlyThen) {
  const auto sampled = [&](const char* seed) {
    return run({"generate", "demo", "-q", "-p", "Tell me a story.", "--temp", "1.5",
                "--max-tokens", "24", "--seed", seed})
        .out;
  };
  EXPECT_EQ(sampled("1"), sampled("1"));
  EXPECT_NE(sampled("1"), sampled("2"));
}

TEST_F(Cli, ChatRemembersUntilReset) {
  const Outcome outcome =
      run({"chat", "demo", "-q"},
          "What is 50 * 6?\n\nWhat is 50 * 6?\n/reset\nWhat is 50 * "
          "6?\n/exit\nWhat is 50 * 6?\n");
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::string answer = "50 * 6 = 300\n#### 300\n";
  EXPECT_EQ(outcome.out.rfind(answer, 0), 0u) << outcome.out;
  ASSERT_GE(outcome.out.size(), 2 * answer.size());
  EXPECT_EQ(outcome.out.substr(outcome.out.size() - answer.size()), answer);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(Cli, ChatEndsWithItsInput) {
  EXPECT_EQ(run({"chat", "demo", "-q"}, "").status, 0);
}

TEST_F(Cli, CtrlCEndsGenerationWithoutASummary) {
  const pid_t child = start({"generate", "demo", "-p", "Hello", "--ignore-eos",
                             "--max-tokens", "16000", "--json", file("summary.json")});
  ASSERT_TRUE(wait_for_output("stdout"));
  ::kill(child, SIGINT);
  const Outcome outcome = finish(child);
  EXPECT_EQ(outcome.status, 130);
  EXPECT_FALSE(fs::exists(file("summary.json")));
  EXPECT_EQ(outcome.out.back(), '\n');
  EXPECT_NE(outcome.err.find("interrupted"), std::string::npos);
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

TEST_F(Cli, EvalReportsItsKeys) {
  Outcome outcome = run({"eval", "demo", "--task", "perplexity", "--n-samples", "2",
                         "--length", "256", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  json summary = json::parse(outcome.out);
  EXPECT_EQ(summary.at("n"), 2 * 255);
  EXPECT_NEAR(summary.at("perplexity"), std::exp(summary.at("nll").get<double>()),
              1e-6);

  outcome = run({"eval", "demo", "--task", "kl", "--reference", "demo", "--exact",
                 "--n-samples", "2", "--length", "128", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  summary = json::parse(outcome.out);
  EXPECT_LE(summary.at("kl_mean"), 1e-9);
  EXPECT_LE(summary.at("kl_p99"), 1e-8);
  EXPECT_EQ(summary.at("top1_agreement"), 1.0);
}

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

  // A damaged file of means is named.
  fs::resize_file(file("kv/kv_means.safetensors"), 100);
  const Outcome broken = run({"generate", "demo", "-p", "a", "--kv-config", config});
  EXPECT_EQ(broken.status, 1);
  expect_one_error_line(broken);
  EXPECT_NE(broken.err.find("kv_means"), std::string::npos) << broken.err;
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

TEST_F(Cli, CasesAreScored) {
  const json question =
      json::array({{{"role", "user"}, {"content", "What is 50 * 6?"}}});
  const auto line = [&](const char* answer) {
    return json({{"messages", question},
                 {"target", "50 * 6 = 300\n#### 300"},
                 {"answer", answer},
                 {"scorer", "hash_number"},
                 {"max_new_tokens", 40}})
               .dump() +
           "\n";
  };
  write_text(file("cases.jsonl"), line("300") + line("301"));
  const Outcome outcome = run({"eval", "demo", "--task", "arithmetic", "--data",
                               file("cases.jsonl"), "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json summary = json::parse(outcome.out);
  EXPECT_EQ(summary.at("n"), 2);
  EXPECT_EQ(summary.at("accuracy"), 0.5);
  EXPECT_LT(summary.at("accuracy_interval")[0], 0.5);
  EXPECT_GT(summary.at("answer_margin"), 0.0);
  EXPECT_LT(summary.at("answer_nll"), 0.1);

  write_text(file("cases.jsonl"), line("300") + "{\"answer\": 1}\n");
  const Outcome bad =
      run({"eval", "demo", "--task", "arithmetic", "--data", file("cases.jsonl")});
  EXPECT_EQ(bad.status, 1);
  expect_one_error_line(bad);
  EXPECT_NE(bad.err.find("line 2"), std::string::npos) << bad.err;
}

TEST_F(Cli, TasksMakeCasesOfEachLengthFromTheSeed) {
  const auto summary_of = [&](const char* seed) {
    const Outcome outcome =
        run({"eval", "demo", "--task", "needle", "--length", "320,640", "--n-samples",
             "3", "--seed", seed, "--json", "-", "-q"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return json::parse(outcome.out);
  };
  const json summary = summary_of("7");
  EXPECT_EQ(summary.at("n"), 6);
  EXPECT_EQ(summary.at("cases").size(), 6u);
  const auto& parts = summary.at("by_length");
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].at("length"), 320);
  EXPECT_EQ(parts[1].at("length"), 640);
  int correct = 0;
  for (const auto& part : parts) {
    EXPECT_EQ(part.at("n"), 3);
    EXPECT_LT(part.at("accuracy_interval")[0], part.at("accuracy_interval")[1]);
    EXPECT_TRUE(part.contains("answer_nll") && part.contains("answer_margin"));
    correct += part.at("correct").get<int>();
  }
  EXPECT_EQ(summary.at("correct"), correct);
  EXPECT_EQ(summary_of("7").at("cases"), summary.at("cases"));
  EXPECT_NE(summary_of("8").at("cases"), summary.at("cases"));

  const Outcome text =
      run({"eval", "demo", "--task", "hashhop", "--n-samples", "4", "-q"});
  EXPECT_EQ(std::ranges::count(text.out, '\n'), 1 + 1 + 4) << text.out;
}

TEST_F(Cli, ALengthOneTokenOverTheContextFailsInOneLine) {
  const Outcome outcome =
      run({"eval", "demo", "--task", "needle", "--length", "320,16385", "-q"});
  EXPECT_EQ(outcome.status, 1);
  expect_one_error_line(outcome);
  EXPECT_NE(outcome.err.find("16384"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("16385"), std::string::npos) << outcome.err;
}

TEST_F(Cli, BenchmarkReportsItsKeys) {
  const Outcome outcome =
      run({"benchmark", "demo", "--prompt", "32", "--decode", "4", "--depth", "0,64",
           "--batch", "1,2", "--repeat", "1", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json summary = json::parse(outcome.out);
  EXPECT_EQ(summary.at("prefill").size(), 2u);
  EXPECT_EQ(summary.at("decode").size(), 4u);
  EXPECT_EQ(summary.at("decode")[3].at("depth"), 64);
  EXPECT_EQ(summary.at("decode")[3].at("batch"), 2);
  for (const auto& row : summary.at("decode")) {
    EXPECT_GT(row.at("tps"), 0);
    EXPECT_GT(row.at("bandwidth_share"), 0);
  }
  EXPECT_EQ(summary.at("kv_bytes_per_token"), 2 * 2 * 2 * 64 * 2);
  EXPECT_GT(summary.at("read_bandwidth_bytes_per_s"), 1e8);
  EXPECT_GT(summary.at("bandwidth_reached_bytes_per_s"), 0);
  EXPECT_GT(summary.at("model_bytes"), 10 << 20);
  EXPECT_GT(summary.at("peak_rss_bytes"), 10 << 20);
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
