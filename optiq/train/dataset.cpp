#include "optiq/train/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/log.h"
#include "optiq/generate/generate.h"

namespace optiq::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kLargestFile = std::size_t{4} << 30;

// A line that cannot be used.
class BadLine : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::size_t common_prefix(const std::vector<int>& a, const std::vector<int>& b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin())
          .first -
      a.begin());
}

// Tool calls' arguments as objects, which templates want; data often has them as text.
void open_arguments(Json& messages) {
  for (Json& message : messages) {
    if (!message.is_object() || !message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) {
      if (!call.is_object() || !call.contains("function")) continue;
      Json& function = call["function"];
      if (!function.is_object() || !function.contains("arguments") ||
          !function["arguments"].is_string())
        continue;
      Json opened =
          Json::parse(function["arguments"].get<std::string>(), nullptr, false);
      if (opened.is_object()) function["arguments"] = std::move(opened);
    }
  }
}

class Reader {
 public:
  Reader(const LoadedModel& model, const DataOptions& options)
      : model_(model), options_(options) {}

  Example read(const Json& line) const {
    if (!line.is_object()) throw BadLine("expected a JSON object");
    Example example;
    if (line.contains("messages"))
      example = chat(line["messages"], line.value("tools", Json()));
    else if (line.contains("prompt") && line.contains("completion"))
      example = completion(line);
    else if (line.contains("text"))
      example = text(line["text"]);
    else
      throw BadLine("expected messages, prompt and completion, or text");
    cut(example);
    return example;
  }

 private:
  std::vector<int> encoded(const Json& messages, const Json& tools,
                           bool answer_follows) const {
    text::ChatOptions options;
    options.tools = tools;
    options.add_generation_prompt = answer_follows;
    return encode_chat(model_, messages, options);
  }

  Example chat(Json messages, const Json& tools) const {
    if (!messages.is_array() || messages.empty())
      throw BadLine("messages: expected a list with at least one message");
    for (const Json& message : messages)
      if (!message.is_object() || !message.contains("role") ||
          !message["role"].is_string())
        throw BadLine("messages: expected objects with a role");
    open_arguments(messages);
    Example example;
    example.tokens = encoded(messages, tools, false);
    example.learnt.assign(example.tokens.size(), 0);
    if (options_.learn_from == LearnFrom::kAll) {
      std::fill(example.learnt.begin() + 1, example.learnt.end(), 1);
      return example;
    }
    const std::size_t n = messages.size();
    const std::size_t first = options_.learn_from == LearnFrom::kAnswers ? 0 : n - 1;
    for (std::size_t i = first; i < n; ++i)
      if (messages[i]["role"] == "assistant") learn(messages, tools, i, example);
    return example;
  }

  // Marks message i: what the chat up to it has more than the chat before it, as far
  // as the whole chat begins like both.
  void learn(const Json& messages, const Json& tools, std::size_t i,
             Example& example) const {
    if (i == 0) return;  // nothing asks for it
    const auto first = messages.begin();
    const Json before(Json::array_t(first, first + static_cast<std::ptrdiff_t>(i)));
    const Json with(Json::array_t(first, first + static_cast<std::ptrdiff_t>(i) + 1));
    const std::size_t begin =
        common_prefix(encoded(before, tools, true), example.tokens);
    const std::size_t end =
        i + 1 == messages.size()
            ? example.tokens.size()
            : common_prefix(encoded(with, tools, false), example.tokens);
    for (std::size_t t = std::max<std::size_t>(begin, 1); t < end; ++t)
      example.learnt[t] = 1;
  }

  Example completion(const Json& line) const {
    for (const char* key : {"prompt", "completion"})
      if (!line[key].is_string()) throw BadLine(std::string(key) + ": expected a text");
    return chat(Json::array({{{"role", "user"}, {"content", line["prompt"]}},
                             {{"role", "assistant"}, {"content", line["completion"]}}}),
                line.value("tools", Json()));
  }

  Example text(const Json& value) const {
    if (!value.is_string()) throw BadLine("text: expected a text");
    Example example;
    example.tokens = encode_raw(model_, value.get<std::string>());
    if (!model_.eos_ids.empty() &&
        (example.tokens.empty() || !model_.eos_ids.contains(example.tokens.back())))
      example.tokens.push_back(*model_.eos_ids.begin());
    example.learnt.assign(example.tokens.size(), 1);
    if (!example.learnt.empty()) example.learnt[0] = 0;
    return example;
  }

  void cut(Example& example) const {
    const auto most = static_cast<std::size_t>(options_.max_length);
    if (example.tokens.size() <= most) return;
    example.tokens.resize(most);
    example.learnt.resize(most);
  }

  const LoadedModel& model_;
  const DataOptions& options_;
};

}  // namespace

int Example::n_learnt() const {
  return static_cast<int>(std::count(learnt.begin(), learnt.end(), 1));
}

std::vector<Example> read_examples(const fs::path& file, const LoadedModel& model,
                                   const DataOptions& options) {
  const Reader reader(model, options);
  std::istringstream lines(read_file(file, kLargestFile));
  std::vector<Example> examples;
  std::string line;
  int empty = 0;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto fail = [&](const std::string& what) {
      throw CheckpointError(fmt::format("{}:{}: {}", file.string(), number, what));
    };
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_discarded()) fail("expected JSON");
    try {
      Example example = reader.read(json);
      if (example.n_learnt() > 0)
        examples.push_back(std::move(example));
      else
        ++empty;
    } catch (const BadLine& error) {
      fail(error.what());
    } catch (const std::invalid_argument& error) {  // the chat template refuses
      fail(error.what());
    } catch (const Json::exception& error) {
      fail(error.what());
    }
  }
  if (empty > 0)
    log_warning("{}: {} lines have nothing to learn and are left out", file.string(),
                empty);
  if (examples.empty())
    throw CheckpointError(file.string() + ": expected lines to learn from, found none");
  return examples;
}

}  // namespace optiq::train
