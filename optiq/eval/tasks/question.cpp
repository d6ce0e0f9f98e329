#include "optiq/eval/tasks/question.h"

#include "optiq/base/error.h"

namespace optiq::eval {
namespace {

std::string plain_prompt(const Question& q) {
  std::string text;
  if (!q.system.empty()) text += q.system + "\n\n";
  if (!q.tools.is_null())
    text += "These functions may be called:\n" + spaced_json(q.tools) +
            "\n\nTo call one, write\n<tool_call>\n{\"name\": <name>, \"arguments\": "
            "<object>}\n</tool_call>\n\n";
  return text + q.user + "\n\n";
}

}  // namespace

Case case_of(const Question& question) {
  Case c;
  c.messages = nlohmann::ordered_json::array();
  if (!question.system.empty())
    c.messages.push_back({{"role", "system"}, {"content", question.system}});
  c.messages.push_back({{"role", "user"}, {"content", question.user}});
  c.tools = question.tools;
  c.prompt = plain_prompt(question);
  c.target = question.target;
  c.answer = question.answer;
  c.scorer = find_scorer(question.scorer);
  OPTIQ_CHECK(c.scorer, question.scorer);
  c.max_new_tokens = question.max_new_tokens;
  return c;
}

std::string spaced_json(const nlohmann::ordered_json& value) {
  if (!value.is_structured() || value.empty()) return value.dump();
  std::string text(1, value.is_object() ? '{' : '[');
  for (const auto& [key, item] : value.items()) {
    if (text.size() > 1) text += ", ";
    if (value.is_object()) text += nlohmann::ordered_json(key).dump() + ": ";
    text += spaced_json(item);
  }
  return text + (value.is_object() ? '}' : ']');
}

}  // namespace optiq::eval
