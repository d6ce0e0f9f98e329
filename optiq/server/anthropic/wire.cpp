#include "optiq/server/anthropic/wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "optiq/server/anthropic/anthropic.h"

namespace optiq::server::anthropic {
namespace {

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 504:
      return "timeout_error";
    case 503:
    case 529:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

const char* stop_reason(const AnswerEnd& end) {
  switch (end.reason) {
    case AnswerEnd::Reason::kToolCalls:
      return "tool_use";
    case AnswerEnd::Reason::kStopString:
      return "stop_sequence";
    case AnswerEnd::Reason::kLength:
      return "max_tokens";
    case AnswerEnd::Reason::kContextFull:
      return "model_context_window_exceeded";
    default:
      return "end_turn";
  }
}

Json usage(const AnswerUse& use) {
  Json json;
  json["input_tokens"] = std::max(0, use.prompt_tokens - use.cached_tokens);
  json["cache_creation_input_tokens"] = 0;
  json["cache_read_input_tokens"] = use.cached_tokens;
  json["output_tokens"] = use.completion_tokens;
  json["output_tokens_details"]["thinking_tokens"] = use.reasoning_tokens;
  json["cache_creation"] = nullptr;
  json["server_tool_use"] = nullptr;
  json["service_tier"] = "standard";
  json["inference_geo"] = nullptr;
  return json;
}

std::string tool_use_id(const std::string& call_id) {
  constexpr std::string_view kOurs = "call_";
  return call_id.starts_with(kOurs) ? "toolu_" + call_id.substr(kOurs.size()) : call_id;
}

std::string new_message_id() {
  constexpr char kLetters[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id = "msg_";
  for (int i = 0; i < 24; ++i) id += kLetters[random() % (sizeof kLetters - 1)];
  return id;
}

std::string signature() { return "b3B0aXE="; }

const ChatService& find_model(const ApiContext& context, const Fields& body) {
  const std::string name = body.required_text("model");
  if (const ChatService* service = context.models->find(name)) return *service;
  throw ApiError(404, "model: " + describe(Json(name)).substr(11) +
                          " does not exist; GET /v1/models lists those that do");
}

ApiError told_error(const std::exception& error) {
  // Claude Code reads the two numbers, and offers to compact the conversation.
  if (const auto* too_long = dynamic_cast<const generation::PromptTooLong*>(&error))
    return {400, fmt::format("prompt is too long: {} tokens > {} maximum",
                             too_long->prompt_tokens, too_long->context_length)};
  if (dynamic_cast<const generation::EngineBusy*>(&error)) {
    ApiError busy(529, error.what());
    busy.retry_after_s = 1;
    return busy;
  }
  return server::told_error(error);
}

http::Response error_response(const ApiError& error, const std::string& request_id) {
  const int status = error.status == 503 && error.retry_after_s ? 529 : error.status;
  Json body;
  body["type"] = "error";
  body["error"]["type"] = error_type(status);
  body["error"]["message"] = error.what();
  if (!request_id.empty()) body["request_id"] = request_id;
  http::Response response{
      .status = status,
      .body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
  if (error.retry_after_s)
    response.headers.emplace_back("retry-after", std::to_string(*error.retry_after_s));
  response.headers.emplace_back("x-should-retry",
                                error.retry_after_s ? "true" : "false");
  return response;
}

}  // namespace optiq::server::anthropic
