#include "optiq/server/openai/read_response.h"

#include <fmt/format.h>

#include "optiq/server/api_error.h"
#include "optiq/server/openai/read_chat.h"

namespace optiq::server::openai {
namespace {

constexpr std::size_t kMostItems = 100'000;

Json message(const std::string& role, std::string content) {
  Json made;
  made["role"] = role;
  made["content"] = std::move(content);
  return made;
}

// The assistant's message that calls and reasoning belong to.
Json& assistant(Json& messages) {
  if (messages.empty() || messages.back()["role"] != "assistant")
    messages.push_back(message("assistant", ""));
  return messages.back();
}

std::string summary_text(const Fields& item) {
  std::string text;
  for (const char* name : {"summary", "content"})
    if (const Json* parts = item.array(name))
      for (const Json& part : *parts)
        if (part.is_object()) text += part.value("text", "");
  return text;
}

void read_item(const Fields& item, Json& messages) {
  const std::string type = item.text("type").value_or("message");
  if (type == "message") {
    std::string role = item.required_text("role");
    if (role == "developer") role = "system";
    if (role != "system" && role != "user" && role != "assistant")
      item.fail("role", "system, developer, user or assistant");
    item.require("content");
    std::string text = read_content(item, "content");
    // Reasoning and calls may have begun this message.
    if (role == "assistant" && !messages.empty() &&
        messages.back()["role"] == "assistant" && messages.back()["content"] == "")
      messages.back()["content"] = std::move(text);
    else
      messages.push_back(message(role, std::move(text)));
  } else if (type == "function_call") {
    Json call;
    call["id"] = item.required_text("call_id");
    call["type"] = "function";
    call["function"]["name"] = item.required_text("name");
    call["function"]["arguments"] = read_arguments(item.text("arguments").value_or(""));
    Json& owner = assistant(messages);
    if (!owner.contains("tool_calls")) owner["tool_calls"] = Json::array();
    owner["tool_calls"].push_back(std::move(call));
  } else if (type == "function_call_output") {
    item.require("output");
    Json made = message("tool", read_content(item, "output"));
    made["tool_call_id"] = item.required_text("call_id");
    messages.push_back(std::move(made));
  } else if (type == "reasoning") {
    if (std::string text = summary_text(item); !text.empty()) {
      messages.push_back(message("assistant", ""));
      messages.back()["reasoning_content"] = std::move(text);
    }
  } else {
    item.fail(
        "type",
        "message, function_call, function_call_output or reasoning (items that are "
        "kept by a server are not)");
  }
}

void read_input(const Fields& body, Json& messages) {
  const Json& input = body.require("input");
  if (input.is_string()) {
    messages.push_back(message("user", input.get<std::string>()));
    return;
  }
  const Json* items = body.array("input", kMostItems);
  if (items->empty()) body.fail("input", "at least one item");
  for (std::size_t i = 0; i < items->size(); ++i)
    read_item(Fields((*items)[i], body.path("input", i)), messages);
}

}  // namespace

ChatRequest read_response(const Fields& body, const ApiDefaults& defaults,
                          Json earlier) {
  ChatRequest request;
  read_sampling(body, defaults, request);
  request.n = 1;
  if (const auto n = body.integer("max_output_tokens", 1, 1 << 30))
    request.max_tokens = static_cast<int>(*n);
  if (const auto instructions = body.text("instructions"))
    request.messages.push_back(message("system", *instructions));
  for (Json& one : earlier) request.messages.push_back(std::move(one));
  read_input(body, request.messages);
  if (const Json* tools = body.array("tools", 1024))
    for (std::size_t i = 0; i < tools->size(); ++i) {
      const Fields tool((*tools)[i], body.path("tools", i));
      request.tools.push_back(read_tool(tool, tool));
    }
  if (const Json* choice = body.find("tool_choice"))
    request.tool_choice = read_tool_choice(*choice, body);
  request.tool_choice.parallel = body.boolean("parallel_tool_calls").value_or(true);
  if (const auto text = body.object("text"))
    if (const auto format = text->object("format"))
      request.format = read_format(*format);
  if (const auto reasoning = body.object("reasoning")) {
    const std::string effort = reasoning->text("effort").value_or("");
    if (effort == "none")
      request.thinking.enabled = false;
    else
      request.thinking.effort = effort;
  }
  if (body.boolean("background").value_or(false))
    body.fail("background", "false: nothing runs on after its connection");
  return request;
}

}  // namespace optiq::server::openai
