// The program run as its users run it, for tests of its commands.
#pragma once
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

namespace optiq::testing {

namespace fs = std::filesystem;
using nlohmann::json;

struct Outcome {
  int status;
  std::string out;
  std::string err;
};

inline std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// A directory of its own for each test, and the program run in it.
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

inline void expect_one_error_line(const Outcome& outcome) {
  EXPECT_EQ(outcome.err.rfind("optiq: error: ", 0), 0u) << outcome.err;
  EXPECT_EQ(std::ranges::count(outcome.err, '\n'), 1) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

}  // namespace optiq::testing
