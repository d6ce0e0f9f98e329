// generate and chat as their users meet them.
#include <csignal>
#include <filesystem>

#include "cli.h"

namespace optiq::testing {
namespace {

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

}  // namespace
}  // namespace optiq::testing
