#include "optiq/server/anthropic/read_messages.h"

#include <fmt/format.h>

#include "optiq/server/anthropic/flatten.h"
#include "optiq/server/api_error.h"

namespace optiq::server::anthropic {
namespace {

constexpr std::size_t kMostMessages = 100'000;
constexpr std::size_t kMostTools = 1024;
constexpr std::int64_t kMostTokens = 1 << 30;

Json message(const char* role, std::string content) {
  Json made;
  made["role"] = role;
  made["content"] = std::move(content);
  return made;
}

void append(std::string& text, const std::string& piece) {
  if (!text.empty() && !piece.empty()) text += "\n";
  text += piece;
}

struct Tools {
  Json shown = Json::array();
  DeferredTools deferred;
};

Tools read_tools(const Fields& body) {
  Tools tools;
  const Json* list = body.array("tools", kMostTools);
  if (!list) return tools;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const Fields tool((*list)[i], body.path("tools", i));
    const std::string type = tool.text("type").value_or("custom");
    if (type != "custom")
      throw ApiError(
          400,
          fmt::format("{}: the tool \"{}\" is run by Anthropic's servers and "
                      "is not there",
                      tool.path("type"), type),
          tool.path("type"));
    Json made;
    made["type"] = "function";
    made["function"]["name"] = tool.required_text("name");
    if (const auto description = tool.text("description"))
      made["function"]["description"] = *description;
    const auto schema = tool.object("input_schema");
    if (!schema) tool.require("input_schema");
    made["function"]["parameters"] = schema->json();
    // A tool that a search finds later must not change the head of the prompt, which
    // all that came before it was read behind.
    if (tool.boolean("defer_loading").value_or(false))
      tools.deferred[tool.required_text("name")] = made["function"];
    else
      tools.shown.push_back(std::move(made));
  }
  return tools;
}

// Text between results goes behind them: nothing may stand between a call and its
// result.
void read_user(const Fields& fields, const DeferredTools& deferred, Json& messages) {
  const Json* content = fields.find("content");
  if (!content) fields.require("content");
  if (content->is_string()) {
    messages.push_back(message("user", content->get<std::string>()));
    return;
  }
  const Json* blocks = fields.array("content", kMostMessages);
  std::string text;
  bool any_text = false;
  for (std::size_t i = 0; i < blocks->size(); ++i) {
    const Fields block((*blocks)[i], fields.path("content", i));
    if (block.required_text("type") != "tool_result") {
      append(text, block_text(block, deferred));
      any_text = true;
      continue;
    }
    std::string result = content_text(block, "content", deferred);
    if (block.boolean("is_error").value_or(false) && result.empty()) result = "Error";
    Json made = message("tool", std::move(result));
    made["tool_call_id"] = block.required_text("tool_use_id");
    messages.push_back(std::move(made));
  }
  if (any_text || blocks->empty()) messages.push_back(message("user", std::move(text)));
}

void read_assistant(const Fields& fields, const DeferredTools& deferred,
                    Json& messages) {
  const Json* content = fields.find("content");
  if (!content) fields.require("content");
  if (content->is_string()) {
    messages.push_back(message("assistant", content->get<std::string>()));
    return;
  }
  const Json* blocks = fields.array("content", kMostMessages);
  std::string text, reasoning;
  Json calls = Json::array();
  for (std::size_t i = 0; i < blocks->size(); ++i) {
    const Fields block((*blocks)[i], fields.path("content", i));
    const std::string type = block.required_text("type");
    if (type == "thinking") {
      append(reasoning, block.text("thinking").value_or(""));
    } else if (type == "tool_use") {
      Json call;
      call["id"] = block.required_text("id");
      call["type"] = "function";
      call["function"]["name"] = block.required_text("name");
      const Json* input = block.find("input");
      call["function"]["arguments"] =
          input && input->is_object() ? *input : Json(Json::object());
      calls.push_back(std::move(call));
    } else if (type != "redacted_thinking") {
      append(text, block_text(block, deferred));
    }
  }
  Json made = message("assistant", std::move(text));
  if (!reasoning.empty()) made["reasoning_content"] = std::move(reasoning);
  if (!calls.empty()) made["tool_calls"] = std::move(calls);
  messages.push_back(std::move(made));
}

// Turns of one role in a row are one turn, as the real API has it.
void merge(Json& messages) {
  Json merged = Json::array();
  for (Json& one : messages) {
    const bool same = !merged.empty() && merged.back()["role"] == one["role"] &&
                      (one["role"] == "user" || one["role"] == "assistant");
    if (!same) {
      merged.push_back(std::move(one));
      continue;
    }
    Json& last = merged.back();
    append(last["content"].get_ref<std::string&>(),
           one["content"].get_ref<const std::string&>());
    if (one.contains("reasoning_content") && !last.contains("reasoning_content"))
      last["reasoning_content"] = one["reasoning_content"];
    if (one.contains("tool_calls")) {
      if (!last.contains("tool_calls")) last["tool_calls"] = Json::array();
      for (Json& call : one["tool_calls"])
        last["tool_calls"].push_back(std::move(call));
    }
  }
  messages = std::move(merged);
}

Json read_turns(const Fields& body, const DeferredTools& deferred) {
  body.require("messages");
  const Json* list = body.array("messages", kMostMessages);
  if (list->empty()) body.fail("messages", "at least one message");
  Json messages = Json::array();
  for (std::size_t i = 0; i < list->size(); ++i) {
    const Fields fields((*list)[i], body.path("messages", i));
    const std::string role = fields.required_text("role");
    if (role == "user")
      read_user(fields, deferred, messages);
    else if (role == "assistant")
      read_assistant(fields, deferred, messages);
    else if (role == "system")
      messages.push_back(message("system", content_text(fields, "content", deferred)));
    else
      fields.fail("role", "user, assistant or system");
  }
  merge(messages);
  return messages;
}

void read_tool_choice(const Fields& body, ChatRequest& request) {
  const auto choice = body.object("tool_choice");
  if (!choice) return;
  ToolChoice& made = request.tool_choice;
  const std::string type = choice->required_text("type");
  if (type == "auto")
    made.kind = ToolChoice::Kind::kAuto;
  else if (type == "any")
    made.kind = ToolChoice::Kind::kRequired;
  else if (type == "none")
    made.kind = ToolChoice::Kind::kNone;
  else if (type == "tool") {
    made.kind = ToolChoice::Kind::kNamed;
    made.name = choice->required_text("name");
  } else {
    choice->fail("type", "auto, any, tool or none");
  }
  made.parallel = !choice->boolean("disable_parallel_tool_use").value_or(false);
  if (request.tools.empty() && (type == "any" || type == "tool"))
    body.fail("tool_choice", "tools to choose from");
}

void read_thinking(const Fields& body, ChatRequest& request) {
  if (const auto thinking = body.object("thinking")) {
    const std::string type = thinking->required_text("type");
    // Kinds that come later are some way of thinking.
    request.thinking.enabled = type != "disabled";
    if (type == "enabled")
      if (const auto budget = thinking->integer("budget_tokens", 0, kMostTokens))
        request.thinking.budget = static_cast<int>(*budget);
    // Adaptive: the template decides by itself.
    if (type != "enabled" && type != "disabled") request.thinking.enabled.reset();
    if (thinking->text("display").value_or("") == "omitted")
      request.thinking.shown = false;
  }
  const auto config = body.object("output_config");
  if (!config) return;
  request.thinking.effort = config->text("effort").value_or("");
  const auto format = config->object("format");
  if (!format || format->text("type").value_or("") != "json_schema") return;
  const auto schema = format->object("schema");
  if (!schema) format->require("schema");
  request.format.kind = AnswerFormat::Kind::kJsonSchema;
  request.format.schema = schema->json();
}

void read_sampling(const Fields& body, const ApiDefaults& defaults,
                   ChatRequest& request) {
  kernels::SamplingOptions& s = request.sampling;
  s = defaults.sampling;
  if (const auto x = body.number("temperature", 0, 2))
    s.temperature = static_cast<float>(*x);
  if (const auto x = body.number("top_p", 0, 1)) s.top_p = static_cast<float>(*x);
  if (const auto k = body.integer("top_k", 0, INT32_MAX))
    s.top_k = static_cast<int>(*k);
  // White space alone stops nothing, and an empty text everything.
  for (std::string& stop : body.text_or_texts("stop_sequences", 64))
    if (!stop.empty()) request.stop_strings.push_back(std::move(stop));
}

}  // namespace

ChatRequest read_messages(const Fields& body, const ApiDefaults& defaults,
                          bool counting) {
  ChatRequest request;
  if (!counting) body.require("max_tokens");
  if (const auto n = body.integer("max_tokens", 1, kMostTokens))
    request.max_tokens = static_cast<int>(*n);
  Tools tools = read_tools(body);
  request.tools = std::move(tools.shown);
  if (std::string system = system_text(body); !system.empty())
    request.messages.push_back(message("system", std::move(system)));
  for (Json& one : read_turns(body, tools.deferred))
    request.messages.push_back(std::move(one));
  read_sampling(body, defaults, request);
  read_tool_choice(body, request);
  read_thinking(body, request);
  const Json& last = request.messages.back();
  if (last["role"] == "assistant" && !last.contains("tool_calls")) {
    std::string& text = request.messages.back()["content"].get_ref<std::string&>();
    while (!text.empty() && (text.back() == ' ' || text.back() == '\n'))
      text.pop_back();
    request.continue_final_message = true;
  }
  return request;
}

}  // namespace optiq::server::anthropic
