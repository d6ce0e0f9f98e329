#include "optiq/base/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "optiq/base/progress.h"

namespace optiq {
namespace {

// Restores the settings, which are the program's.
class Log : public ::testing::Test {
 protected:
  void TearDown() override {
    set_log_level(LogLevel::kInfo);
    set_log_format(LogFormat::kText);
  }
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST_F(Log, LinesBelowTheLevelAreDropped) {
  set_log_level(LogLevel::kWarning);
  testing::internal::CaptureStderr();
  log_info("not seen");
  log_warning("seen {}", 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "optiq: warning: seen 1\n");
}

TEST_F(Log, AMessageIsOneLineWhateverItQuotes) {
  testing::internal::CaptureStderr();
  log(LogLevel::kError, "two\nlines");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "optiq: error: two lines\n");
}

TEST_F(Log, JsonLinesParseEvenWithBrokenUtf8) {
  set_log_format(LogFormat::kJson);
  testing::internal::CaptureStderr();
  log(LogLevel::kError, "bad \xff byte");
  const auto line = nlohmann::json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(line.at("level"), "error");
  EXPECT_EQ(line.at("message"), "bad \xEF\xBF\xBD byte");
}

TEST_F(Log, LinesOfSeveralThreadsAreNeverMixed) {
  testing::internal::CaptureStderr();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 50; ++i)
        log_info("{}", std::string(60, static_cast<char>('a' + t)));
    });
  for (std::thread& thread : threads) thread.join();
  const auto lines = lines_of(testing::internal::GetCapturedStderr());
  ASSERT_EQ(lines.size(), 200u);
  for (const std::string& line : lines) {
    ASSERT_EQ(line.size(), 67u) << line;
    EXPECT_EQ(line.substr(7), std::string(60, line[7]));
  }
}

TEST_F(Log, ProgressOffATerminalIsOneLinePerTenPercent) {
  testing::internal::CaptureStderr();
  {
    Progress progress("measuring", 1000, "layers");
    for (int i = 0; i < 1000; ++i) progress.advance();
  }
  const auto lines = lines_of(testing::internal::GetCapturedStderr());
  ASSERT_EQ(lines.size(), 10u);
  EXPECT_EQ(lines[0].find("optiq: measuring  10% 100/1000 layers"), 0u) << lines[0];
  EXPECT_EQ(lines[9].find("optiq: measuring 100% 1000/1000 layers"), 0u) << lines[9];
}

TEST_F(Log, ProgressIsSilentWhenQuiet) {
  set_log_level(LogLevel::kWarning);
  testing::internal::CaptureStderr();
  Progress("measuring", 10, "layers").advance(10);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(Log, ProgressThatResumesDoesNotRepeatOldLines) {
  testing::internal::CaptureStderr();
  {
    Progress progress("measuring", 10, "layers");
    progress.set(9);
    progress.advance();
  }
  EXPECT_EQ(lines_of(testing::internal::GetCapturedStderr()).size(), 1u);
}

}  // namespace
}  // namespace optiq
