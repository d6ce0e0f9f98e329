// What the tests of text/ share: golden files, the demo's tokenizer, scratch models.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "optiq/text/tokenizer.h"

namespace optiq::text {

using Json = nlohmann::ordered_json;

inline std::filesystem::path testdata() {
  return std::filesystem::path(OPTIQ_SOURCE_DIR) / "optiq/text/testdata";
}

inline std::filesystem::path demo_dir() {
  return std::filesystem::path(OPTIQ_SOURCE_DIR) / "models/demo";
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline Json golden(const std::string& name) {
  return Json::parse(slurp(testdata() / name));
}

/// A model directory of its own, removed at the end.
class ScratchModel {
 public:
  explicit ScratchModel(const std::map<std::string, std::string>& files) {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    static int count = 0;
    dir_ = std::filesystem::temp_directory_path() /
           ("optiq-text-" + std::string(test ? test->name() : "suite") + "-" +
            std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(dir_);
    for (const auto& [name, text] : files) {
      const auto path = dir_ / name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path, std::ios::binary) << text;
    }
  }
  ScratchModel(const ScratchModel&) = delete;
  ~ScratchModel() { std::filesystem::remove_all(dir_); }

  const std::filesystem::path& dir() const { return dir_; }

 private:
  std::filesystem::path dir_;
};

inline const Tokenizer& demo_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(demo_dir());
  return tokenizer;
}

/// The demo's tokenizer with the bos and eos tokens that the golden prompts have.
inline const Tokenizer& golden_tokenizer() {
  static const Tokenizer tokenizer = [] {
    const ScratchModel model({
        {"tokenizer.json", slurp(demo_dir() / "tokenizer.json")},
        {"tokenizer_config.json",
         R"({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}})"},
    });
    return Tokenizer::load(model.dir());
  }();
  return tokenizer;
}

/// The message of the exception of type E that `body` throws.
template <typename E, typename Body>
std::string thrown(const Body& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace optiq::text
