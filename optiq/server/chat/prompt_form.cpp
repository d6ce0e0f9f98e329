#include "optiq/server/chat/prompt_form.h"

#include <string>

namespace optiq::server {
namespace {

Json message(const char* role, const char* content) {
  Json made;
  made["role"] = role;
  made["content"] = content;
  return made;
}

// What the template makes of the messages; empty if it refuses them.
std::string rendered(const text::ChatTemplate& chat_template,
                     std::initializer_list<Json> messages) {
  Json list = Json::array();
  for (const Json& one : messages) list.push_back(one);
  try {
    text::ChatOptions options;
    options.add_generation_prompt = false;
    return chat_template.render(list, options).text;
  } catch (const std::exception&) {
    return "";
  }
}

std::string role_of(const Json& message) { return message.value("role", ""); }

std::string text_of(const Json& message) {
  const auto at = message.find("content");
  return at != message.end() && at->is_string() ? at->get<std::string>() : "";
}

void append(Json& message, const std::string& text) {
  const std::string before = text_of(message);
  message["content"] = before.empty() ? text : before + "\n\n" + text;
}

void prepend(Json& message, const std::string& text) {
  const std::string after = text_of(message);
  message["content"] = after.empty() ? text : text + "\n\n" + after;
}

// System messages that may not stand where they do, as text of their neighbours.
Json fold_system(const Json& messages, const TemplateTraits& traits) {
  Json folded = Json::array();
  std::string waiting;  // for the next message of the user
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json& one = messages[i];
    const std::string role = role_of(one);
    const bool front = folded.empty() && waiting.empty();
    if (role == "system" && !(front ? traits.system_first : traits.system_inline)) {
      const std::string before = folded.empty() ? "" : role_of(folded.back());
      if (before == "user" || before == "tool")
        append(folded.back(), text_of(one));
      else
        waiting += (waiting.empty() ? "" : "\n\n") + text_of(one);
      continue;
    }
    folded.push_back(one);
    if (!waiting.empty() && (role == "user" || role == "tool")) {
      prepend(folded.back(), waiting);
      waiting.clear();
    }
  }
  if (!waiting.empty()) folded.push_back(message("user", waiting.c_str()));
  return folded;
}

bool may_merge(const Json& a, const Json& b) {
  const std::string role = role_of(a);
  return role == role_of(b) &&
         (role == "user" || role == "system" || role == "assistant") &&
         !a.contains("tool_calls") && !a.contains("reasoning_content") &&
         !b.contains("reasoning_content");
}

Json merge_same_roles(const Json& messages) {
  Json merged = Json::array();
  for (const Json& one : messages) {
    if (merged.empty() || !may_merge(merged.back(), one)) {
      merged.push_back(one);
      continue;
    }
    append(merged.back(), text_of(one));
    if (const auto calls = one.find("tool_calls"); calls != one.end())
      merged.back()["tool_calls"] = *calls;
  }
  return merged;
}

}  // namespace

TemplateTraits traits_of(const text::ChatTemplate& chat_template) {
  TemplateTraits traits;
  const Json user = message("user", "first-probe"),
             other = message("user", "third-probe");
  const Json answer = message("assistant", "second-probe");
  const Json system = message("system", "system-probe");
  traits.system_first =
      rendered(chat_template, {system, user}).find("system-probe") != std::string::npos;
  const std::string in_place = rendered(chat_template, {user, answer, system, other});
  const std::string without = rendered(chat_template, {user, answer});
  const auto at = in_place.find("system-probe");
  traits.system_inline = at != std::string::npos && in_place.starts_with(without) &&
                         at > without.size() && at < in_place.find("third-probe");
  const std::string twice = rendered(chat_template, {user, other});
  traits.same_role_twice = twice.find("first-probe") != std::string::npos &&
                           twice.find("third-probe") != std::string::npos;
  return traits;
}

Json fit_messages(Json messages, const TemplateTraits& traits) {
  if (!traits.system_first || !traits.system_inline)
    messages = fold_system(messages, traits);
  if (!traits.same_role_twice) messages = merge_same_roles(messages);
  return messages;
}

}  // namespace optiq::server
