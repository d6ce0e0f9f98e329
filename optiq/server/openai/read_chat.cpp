#include "optiq/server/openai/read_chat.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "optiq/server/api_error.h"

namespace optiq::server::openai {
namespace {

constexpr std::size_t kMostMessages = 100'000;
constexpr std::size_t kMostTools = 1024;
constexpr std::size_t kMostStops = 16;
constexpr std::size_t kLongestStop = 256;
constexpr std::size_t kMostBiases = 1024;
constexpr int kMostChoices = 16;
constexpr std::int64_t kMostTokens = 1 << 30;

bool is_tool_name(const std::string& name) {
  return !name.empty() && name.size() <= 128 &&
         name.find_first_of("\"\\\n\r\t<>{}") == std::string::npos;
}

std::string read_part(const Fields& part) {
  const std::string type = part.required_text("type");
  if (type == "text" || type == "input_text" || type == "output_text")
    return part.required_text("text");
  if (type == "refusal") return part.required_text("refusal");
  if (type == "image_url" || type == "input_image") {
    const Json* image = part.find("image_url");
    std::string url;
    if (image && image->is_string()) url = image->get<std::string>();
    if (image && image->is_object()) url = image->value("url", "");
    if (!url.starts_with("data:"))
      throw ApiError(
          400, "image_url: expected a data: URL, nothing is fetched from elsewhere",
          "image_url");
    return "[image]";
  }
  if (type == "input_audio" || type == "file" || type == "input_file")
    return fmt::format("[{}]", type == "input_audio" ? "audio" : "file");
  part.fail("type", "\"text\" or \"image_url\"");
}

Json read_call(const Fields& call) {
  const auto function = call.object("function");
  if (!function) call.require("function");
  Json made;
  made["id"] = call.text("id").value_or("");
  made["type"] = "function";
  made["function"]["name"] = function->required_text("name");
  const Json* arguments = function->find("arguments");
  made["function"]["arguments"] =
      arguments && arguments->is_object()
          ? *arguments
          : read_arguments(function->text("arguments").value_or(""));
  return made;
}

Json read_message(const Fields& message) {
  std::string role = message.required_text("role");
  if (role == "developer") role = "system";
  if (role == "function") role = "tool";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool")
    message.fail("role", "system, developer, user, assistant or tool");
  Json made;
  made["role"] = role;
  const bool may_be_empty = role == "assistant";
  if (!may_be_empty) message.require("content");
  made["content"] = read_content(message, "content");
  if (role == "tool") {
    if (const auto id = message.text("tool_call_id")) made["tool_call_id"] = *id;
    if (const auto name = message.text("name")) made["name"] = *name;
  }
  if (role != "assistant") return made;
  for (const char* name : {"reasoning_content", "reasoning"})
    if (const auto reasoning = message.text(name); reasoning && !reasoning->empty()) {
      made["reasoning_content"] = *reasoning;
      break;
    }
  Json calls = Json::array();
  if (const Json* list = message.array("tool_calls", kMostTools))
    for (std::size_t i = 0; i < list->size(); ++i)
      calls.push_back(read_call(Fields((*list)[i], message.path("tool_calls", i))));
  if (const auto legacy = message.object("function_call")) {
    Json call;
    call["function"] = legacy->json();
    calls.push_back(read_call(Fields(call, message.path("function_call"))));
  }
  if (!calls.empty()) made["tool_calls"] = std::move(calls);
  return made;
}

Json read_messages(const Fields& body) {
  body.require("messages");
  const Json* list = body.array("messages", kMostMessages);
  if (list->empty()) body.fail("messages", "at least one message");
  Json messages = Json::array();
  for (std::size_t i = 0; i < list->size(); ++i)
    messages.push_back(read_message(Fields((*list)[i], body.path("messages", i))));
  return messages;
}

Json read_tools(const Fields& body) {
  Json tools = Json::array();
  if (const Json* list = body.array("tools", kMostTools))
    for (std::size_t i = 0; i < list->size(); ++i) {
      const Fields tool((*list)[i], body.path("tools", i));
      const auto function = tool.object("function");
      if (!function) tool.require("function");
      tools.push_back(read_tool(tool, *function));
    }
  if (const Json* list = body.array("functions", kMostTools))
    for (std::size_t i = 0; i < list->size(); ++i) {
      const Fields function((*list)[i], body.path("functions", i));
      tools.push_back(read_tool(function, function));
    }
  return tools;
}

AnswerFormat pattern_format(AnswerFormat::Kind kind, std::string pattern) {
  AnswerFormat format;
  format.kind = kind;
  format.pattern = std::move(pattern);
  format.strict = true;
  return format;
}

AnswerFormat schema_format(const Json& schema, const Fields& owner, const char* name) {
  AnswerFormat format;
  format.kind = AnswerFormat::Kind::kJsonSchema;
  format.schema = schema;
  if (schema.is_string())
    format.schema = Json::parse(schema.get_ref<const std::string&>(), nullptr, false);
  if (!format.schema.is_object() && !format.schema.is_boolean())
    owner.fail(name, "a JSON schema");
  return format;
}

// What vLLM's clients send in extra_body.
std::optional<AnswerFormat> read_guided(const Fields& body) {
  for (const auto& [prefix, owner] :
       {std::pair{"guided_", std::optional<Fields>(body)},
        std::pair{"", body.object("structured_outputs")}}) {
    if (!owner) continue;
    const auto name = [&, p = prefix](const char* what) {
      return std::string(p) + what;
    };
    if (const Json* schema = owner->find(name("json").c_str()))
      return schema_format(*schema, *owner, name("json").c_str());
    if (const auto regex = owner->text(name("regex").c_str()))
      return pattern_format(AnswerFormat::Kind::kRegex, *regex);
    if (const auto grammar = owner->text(name("grammar").c_str()))
      return pattern_format(AnswerFormat::Kind::kGrammar, *grammar);
    if (owner->has(name("choice").c_str())) {
      AnswerFormat format = pattern_format(AnswerFormat::Kind::kChoice, "");
      format.choices = owner->text_or_texts(name("choice").c_str(), 1024);
      if (format.choices.empty())
        owner->fail(name("choice").c_str(), "at least one choice");
      return format;
    }
  }
  return std::nullopt;
}

void read_logit_bias(const Fields& body, ChatRequest& request) {
  const auto biases = body.object("logit_bias");
  if (!biases) return;
  if (biases->json().size() > kMostBiases)
    body.fail("logit_bias", fmt::format("at most {} tokens", kMostBiases));
  for (const auto& [id, value] : biases->json().items()) {
    char* end = nullptr;
    const long token = std::strtol(id.c_str(), &end, 10);
    if (id.empty() || *end != '\0' || token < 0 || token > INT32_MAX)
      body.fail("logit_bias", "token ids as keys");
    const double bias = *biases->number(id.c_str(), -100, 100);
    request.sampling.logit_bias.push_back(
        {static_cast<int>(token), bias <= -100 ? -std::numeric_limits<float>::infinity()
                                               : static_cast<float>(bias)});
  }
}

void read_thinking(const Fields& body, ChatRequest& request) {
  if (const auto variables = body.object("chat_template_kwargs"))
    request.template_variables = variables->json();
  std::string effort = body.text("reasoning_effort").value_or("");
  if (const auto reasoning = body.object("reasoning"); reasoning && effort.empty())
    effort = reasoning->text("effort").value_or("");
  if (effort == "none")
    request.thinking.enabled = false;
  else if (!effort.empty())
    request.thinking.effort = effort;
  if (const auto enabled = body.boolean("enable_thinking"))
    request.thinking.enabled = *enabled;
  for (const char* name :
       {"thinking_budget", "thinking_token_budget", "reasoning_budget"})
    if (const auto budget = body.integer(name, -1, kMostTokens))
      if (*budget >= 0) request.thinking.budget = static_cast<int>(*budget);
}

}  // namespace

std::string read_content(const Fields& message, const char* name) {
  const Json* content = message.find(name);
  if (!content) return "";
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) message.fail(name, "a string or an array of parts");
  std::string text;
  for (std::size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string piece = part.is_string()
                                  ? part.get<std::string>()
                                  : read_part(Fields(part, message.path(name, i)));
    if (!text.empty() && !piece.empty() && text.back() != '\n') text += '\n';
    text += piece;
  }
  return text;
}

Json read_arguments(const std::string& text) {
  if (text.empty()) return Json::object();
  Json parsed = Json::parse(text, nullptr, false);
  if (parsed.is_object()) return parsed;
  Json kept;
  kept["raw_arguments"] = text;
  return kept;
}

Json read_tool(const Fields& tool, const Fields& function) {
  const std::string type = tool.text("type").value_or("function");
  if (type != "function")
    throw ApiError(400,
                   fmt::format("{}: expected \"function\", found \"{}\": tools that a "
                               "server runs are not there",
                               tool.path("type"), type),
                   tool.path("type"));
  const std::string name = function.required_text("name");
  if (!is_tool_name(name))
    function.fail("name", "a name of at most 128 plain characters");
  Json made;
  made["type"] = "function";
  made["function"]["name"] = name;
  if (const auto description = function.text("description"))
    made["function"]["description"] = *description;
  const auto parameters = function.object("parameters");
  made["function"]["parameters"] =
      parameters ? parameters->json()
                 : Json::parse(R"({"type": "object", "properties": {}})");
  return made;
}

ToolChoice read_tool_choice(const Json& choice, const Fields& body) {
  ToolChoice made;
  const auto from_name = [&](const std::string& name) {
    if (name == "auto")
      made.kind = ToolChoice::Kind::kAuto;
    else if (name == "none")
      made.kind = ToolChoice::Kind::kNone;
    else if (name == "required")
      made.kind = ToolChoice::Kind::kRequired;
    else
      body.fail("tool_choice", "\"auto\", \"none\", \"required\" or a function");
  };
  if (choice.is_string()) {
    from_name(choice.get<std::string>());
    return made;
  }
  const Fields fields(choice, body.path("tool_choice"));
  const std::string type = fields.required_text("type");
  if (type == "allowed_tools") {
    const auto allowed = fields.object("allowed_tools");
    from_name((allowed ? *allowed : fields).text("mode").value_or("auto"));
    return made;
  }
  if (type != "function") fields.fail("type", "\"function\"");
  made.kind = ToolChoice::Kind::kNamed;
  const auto function = fields.object("function");
  made.name = (function ? *function : fields).required_text("name");
  return made;
}

AnswerFormat read_format(const Fields& format) {
  AnswerFormat made;
  const std::string type = format.required_text("type");
  if (type == "text") return made;
  if (type == "json_object") {
    made.kind = AnswerFormat::Kind::kJsonObject;
    return made;
  }
  if (type != "json_schema")
    format.fail("type", "\"text\", \"json_object\" or \"json_schema\"");
  const auto inner = format.object("json_schema");
  const Fields& owner = inner ? *inner : format;
  const Json* schema = owner.find("schema");
  if (!schema) owner.require("schema");
  made = schema_format(*schema, owner, "schema");
  made.strict = owner.boolean("strict").value_or(false);
  return made;
}

void read_sampling(const Fields& body, const ApiDefaults& defaults,
                   ChatRequest& request) {
  kernels::SamplingOptions& s = request.sampling;
  s = defaults.sampling;
  const auto number = [&](const char* name, float& value, double low, double high) {
    if (const auto x = body.number(name, low, high)) value = static_cast<float>(*x);
  };
  number("temperature", s.temperature, 0, 2);
  number("top_p", s.top_p, 0, 1);
  number("min_p", s.min_p, 0, 1);
  number("presence_penalty", s.presence_penalty, -2, 2);
  number("frequency_penalty", s.frequency_penalty, -2, 2);
  number("repetition_penalty", s.repetition_penalty, 0.01, 100);
  if (const auto k = body.integer("top_k", -1, INT32_MAX))
    s.top_k = static_cast<int>(std::max<std::int64_t>(*k, 0));
  if (const auto seed = body.integer("seed", INT64_MIN, INT64_MAX))
    request.seed = static_cast<std::uint64_t>(*seed);
  read_logit_bias(body, request);
  request.stop_strings = body.text_or_texts("stop", kMostStops);
  for (const std::string& stop : request.stop_strings)
    if (stop.size() > kLongestStop || stop.empty())
      body.fail("stop", fmt::format("strings of 1 to {} bytes", kLongestStop));
  if (const Json* ids = body.array("stop_token_ids", kMostBiases))
    for (const Json& id : *ids) {
      if (!id.is_number_integer()) body.fail("stop_token_ids", "token ids");
      request.stop_ids.push_back(id.get<int>());
    }
  request.ignore_eos = body.boolean("ignore_eos").value_or(false);
  request.n = static_cast<int>(body.integer("n", 1, kMostChoices).value_or(1));
  if (body.integer("best_of", 0, 1'000'000).value_or(request.n) != request.n)
    body.fail("best_of", "nothing: it is not supported");
  request.max_tokens = defaults.max_tokens;
  for (const char* name : {"max_tokens", "max_completion_tokens"})
    if (const auto n = body.integer(name, 1, kMostTokens))
      request.max_tokens = static_cast<int>(*n);
  request.cache_salt = body.text("cache_salt").value_or("");
}

ChatRequest read_chat(const Fields& body, const ApiDefaults& defaults) {
  ChatRequest request;
  request.messages = read_messages(body);
  read_sampling(body, defaults, request);
  request.tools = read_tools(body);
  if (const Json* choice = body.find("tool_choice"))
    request.tool_choice = read_tool_choice(*choice, body);
  else if (const Json* legacy = body.find("function_call")) {
    Json choice = *legacy;
    if (legacy->is_object()) choice["type"] = "function";
    request.tool_choice = read_tool_choice(choice, body);
  }
  request.tool_choice.parallel = body.boolean("parallel_tool_calls").value_or(true);
  if (request.tools.empty() &&
      (request.tool_choice.kind == ToolChoice::Kind::kRequired ||
       request.tool_choice.kind == ToolChoice::Kind::kNamed))
    body.fail("tool_choice", "tools to choose from");
  if (const auto format = body.object("response_format"))
    request.format = read_format(*format);
  if (auto guided = read_guided(body)) request.format = std::move(*guided);
  read_thinking(body, request);
  if (body.boolean("logprobs").value_or(false))
    request.log_probs =
        static_cast<int>(body.integer("top_logprobs", 0, 20).value_or(0));
  else if (body.integer("top_logprobs", 0, 20).value_or(0) > 0)
    body.fail("top_logprobs", "logprobs: true beside it");
  request.continue_final_message =
      body.boolean("continue_final_message").value_or(false);
  if (request.continue_final_message && request.messages.back()["role"] != "assistant")
    body.fail("continue_final_message", "a last message of the assistant");
  return request;
}

}  // namespace optiq::server::openai
