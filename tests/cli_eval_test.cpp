// eval and benchmark as their users meet them.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "cli.h"

namespace optiq::testing {
namespace {

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
  EXPECT_EQ(summary.at("flip_rate"), 0.0);
}

// Against itself, but with a cache of 4 bits: likelihoods change a little.
TEST_F(Cli, EveryTaskTellsWhatChangedFromAReference) {
  Outcome outcome =
      run({"eval", "demo", "--task", "perplexity", "--reference", "demo", "--kv-bits",
           "4", "--n-samples", "3", "--length", "128", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  json summary = json::parse(outcome.out);
  const auto& interval = summary.at("nll_change_interval");
  EXPECT_LE(interval[0], summary.at("nll_change"));
  EXPECT_GE(interval[1], summary.at("nll_change"));
  EXPECT_NEAR(summary.at("nll").get<double>() - summary.at("nll_change").get<double>(),
              summary.at("reference_nll"), 1e-9);
  EXPECT_NE(summary.at("nll_change"), 0.0);
  EXPECT_LT(std::abs(summary.at("nll_change").get<double>()), 0.02);

  outcome = run({"eval", "demo", "--task", "copy", "--reference", "demo", "--n-samples",
                 "3", "--json", "-", "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  summary = json::parse(outcome.out);
  EXPECT_EQ(summary.at("reference"), "demo");
  EXPECT_EQ(summary.at("accuracy_change"),
            summary.at("accuracy").get<double>() -
                summary.at("reference_accuracy").get<double>());
  EXPECT_LT(std::abs(summary.at("answer_nll_change").get<double>()), 0.02);
  EXPECT_EQ(summary.at("lost"), 0);
}

TEST_F(Cli, AllTasksEndWithATableOfChanges) {
  const json question =
      json::array({{{"role", "user"}, {"content", "What is 50 * 6?"}}});
  std::filesystem::create_directory(file("cases"));
  write_text(file("cases/sums.jsonl"), json({{"messages", question},
                                             {"target", "50 * 6 = 300\n#### 300"},
                                             {"answer", "300"},
                                             {"scorer", "hash_number"},
                                             {"max_new_tokens", 40}})
                                               .dump() +
                                           "\n");
  write_text(file("cases/prose.txt"), std::string(40, ' ') + "A short text to read.");
  const Outcome outcome = run({"eval", "demo", "--task", "all", "--reference", "demo",
                               "--data", file("cases"), "-q"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::string table = outcome.out.substr(outcome.out.find("\n\n"));
  for (const char* row : {"perplexity", "kl", "sums"})
    EXPECT_NE(table.find(std::string("\n") + row), std::string::npos) << table;
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

}  // namespace
}  // namespace optiq::testing
