#include "optiq/eval/case_file.h"

#include <fmt/format.h>

#include <sstream>

#include "optiq/base/error.h"
#include "optiq/base/file.h"

namespace optiq::eval {
namespace {

// Templates render tools in the order in which they are written.
using Json = nlohmann::ordered_json;

constexpr std::size_t kLimitBytes = std::size_t{256} << 20;
constexpr int kMaxNewTokens = 1 << 20;

class Reader {
 public:
  Reader(const std::filesystem::path& file, int line) : file_(file), line_(line) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(fmt::format("{}: line {}: {}", file_.string(), line_, what));
  }

  std::string text(const Json& object, const char* key,
                   const char* fallback = nullptr) const {
    const auto it = object.find(key);
    if (it != object.end() && it->is_string()) return *it;
    if ((it == object.end() || it->is_null()) && fallback) return fallback;
    fail(fmt::format("{}: expected a string, found {}", key,
                     it == object.end() ? "nothing" : it->type_name()));
  }

  Case read(const std::string& line) const {
    const auto object = Json::parse(line, nullptr, false);
    if (!object.is_object()) fail("expected a JSON object");
    Case c;
    c.id = text(object, "id", fmt::format("{}", line_).c_str());
    c.answer = text(object, "answer");
    c.target = text(object, "target", c.answer.c_str());
    c.messages = object.value("messages", Json());
    c.tools = object.value("tools", Json());
    c.prompt = text(object, "prompt", "");
    if (!c.messages.is_null() && (!c.messages.is_array() || c.messages.empty()))
      fail("messages: expected a list of messages");
    if (!c.tools.is_null() && !c.tools.is_array()) fail("tools: expected a list");
    if (const Json thinking = object.value("enable_thinking", Json());
        thinking.is_boolean())
      c.enable_thinking = thinking.get<bool>();
    else if (!thinking.is_null())
      fail("enable_thinking: expected true or false");
    if (c.messages.is_null() && c.prompt.empty()) fail("expected messages or a prompt");
    const std::string scorer = text(object, "scorer");
    c.scorer = find_scorer(scorer);
    if (!c.scorer) {
      std::vector<std::string> names;
      for (const Scorer& known : scorers()) names.emplace_back(known.name);
      fail(fmt::format("scorer: expected one of {}, found '{}'", fmt::join(names, ", "),
                       scorer));
    }
    const auto limit = object.find("max_new_tokens");
    if (limit == object.end() || !limit->is_number_integer() || *limit < 1 ||
        *limit > kMaxNewTokens)
      fail("max_new_tokens: expected a positive integer");
    c.max_new_tokens = *limit;
    return c;
  }

 private:
  const std::filesystem::path& file_;
  int line_;
};

}  // namespace

std::vector<Case> read_cases(const std::filesystem::path& file) {
  std::istringstream stream(read_file(file, kLimitBytes));
  std::vector<Case> cases;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    cases.push_back(Reader(file, number).read(line));
  }
  if (cases.empty())
    throw CheckpointError(
        fmt::format("{}: expected one case a line, found none", file.string()));
  return cases;
}

}  // namespace optiq::eval
