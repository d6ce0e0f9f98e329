#include "optiq/sensitivity/calibration.h"

#include <gtest/gtest.h>

#include <set>

#include "optiq/base/error.h"

namespace optiq::sensitivity {
namespace {

using json = nlohmann::ordered_json;

// Sample i is 100 tokens 100 i, 100 i + 1, ...: every token tells where it came from.
std::vector<json> numbered_samples(int n) {
  std::vector<json> samples;
  for (int i = 0; i < n; ++i)
    samples.push_back({{"domain", i % 2 ? "a" : "b"}, {"text", std::to_string(i)}});
  return samples;
}

std::vector<int> number_tokens(const json& sample) {
  const int first = 100 * std::stoi(sample["text"].get<std::string>());
  std::vector<int> tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(first + i);
  return tokens;
}

Calibration draw(int samples, int windows, int length, int held_out,
                 std::uint64_t seed = 1) {
  return make_calibration(numbered_samples(samples),
                          {"test", windows, length, held_out, seed}, number_tokens);
}

TEST(Calibration, HeldOutWindowsShareNoTokenWithTheOthers) {
  const Calibration c = draw(40, 10, 64, 4);
  ASSERT_EQ(c.windows.size(), 10u);
  ASSERT_EQ(c.held_out.size(), 4u);
  std::set<int> seen;
  for (const auto& window : c.windows) seen.insert(window.begin(), window.end());
  EXPECT_EQ(seen.size(), 640u);
  for (const auto& window : c.held_out)
    for (int token : window) EXPECT_FALSE(seen.contains(token));
}

TEST(Calibration, TheSeedDecidesTheWindowsAndNothingElseDoes) {
  EXPECT_EQ(draw(40, 10, 64, 4, 7).windows, draw(40, 10, 64, 4, 7).windows);
  EXPECT_NE(draw(40, 10, 64, 4, 7).fingerprint, draw(40, 10, 64, 4, 8).fingerprint);
}

TEST(Calibration, ShortTextGivesFewerWindowsAndKeepsSomeHeldOut) {
  const Calibration c = draw(5, 24, 100, 8);  // 500 tokens: five windows of 32 wanted
  EXPECT_EQ(c.windows.size() + c.held_out.size(), 5u);
  EXPECT_GE(c.held_out.size(), 1u);
  EXPECT_GE(c.windows.size(), 3u);
}

TEST(Calibration, CountsSamplesByDomain) {
  const Calibration c = draw(5, 2, 32, 1);
  EXPECT_EQ(c.samples_by_domain.at("a"), 2);
  EXPECT_EQ(c.samples_by_domain.at("b"), 3);
}

TEST(Calibration, TooLittleTextIsAnErrorThatSaysHowMuchThereIs) {
  const auto few = [](const json&) { return std::vector<int>{1, 2, 3}; };
  try {
    make_calibration(numbered_samples(2), {"tiny.jsonl", 4, 64, 1, 1}, few);
    FAIL() << "six tokens were enough";
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("6 tokens"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("tiny.jsonl"), std::string::npos);
  }
}

TEST(Calibration, TheBuiltInMixHasSevenDomainsAndEnoughTextForTheDefaults) {
  std::set<std::string> domains;
  std::size_t bytes = 0;
  for (const json& sample : builtin_samples()) {
    domains.insert(sample.value("domain", ""));
    bytes += sample.dump().size();
  }
  EXPECT_EQ(domains.size(), 7u);
  // 32 windows of 512 tokens at some four bytes a token.
  EXPECT_GE(bytes, 32u * 512 * 4);
}

}  // namespace
}  // namespace optiq::sensitivity
