#include "optiq/server/openai/wire.h"

#include <chrono>
#include <random>

#include "optiq/server/openai/openai.h"

namespace optiq::server::openai {
namespace {

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

Json bytes_of(const std::string& text) {
  Json bytes = Json::array();
  for (const char c : text)
    bytes.push_back(static_cast<int>(static_cast<unsigned char>(c)));
  return bytes;
}

// A token may be a part of a character: its text then has U+FFFD.
std::string readable(const std::string& bytes) {
  const std::string text =
      Json(bytes).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(text).get<std::string>();
}

}  // namespace

std::string new_id(const char* prefix) {
  constexpr char kLetters[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id = prefix;
  for (int i = 0; i < 24; ++i) id += kLetters[random() % (sizeof kLetters - 1)];
  return id;
}

std::int64_t unix_time_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

const char* finish_reason(const AnswerEnd& end) {
  switch (end.reason) {
    case AnswerEnd::Reason::kToolCalls:
      return "tool_calls";
    case AnswerEnd::Reason::kLength:
    case AnswerEnd::Reason::kContextFull:
      return "length";
    default:
      return "stop";
  }
}

Json usage(const std::vector<AnswerUse>& uses) {
  AnswerUse sum;
  for (const AnswerUse& use : uses) {
    sum.prompt_tokens = std::max(sum.prompt_tokens, use.prompt_tokens);
    sum.completion_tokens += use.completion_tokens;
    sum.reasoning_tokens += use.reasoning_tokens;
  }
  if (!uses.empty()) sum.cached_tokens = uses.front().cached_tokens;
  return usage(sum);
}

Json usage(const AnswerUse& use) {
  Json json;
  json["prompt_tokens"] = use.prompt_tokens;
  json["completion_tokens"] = use.completion_tokens;
  json["total_tokens"] = use.prompt_tokens + use.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = use.cached_tokens;
  json["completion_tokens_details"]["reasoning_tokens"] = use.reasoning_tokens;
  return json;
}

Json log_prob_entry(const TokenRecord& token) {
  const auto one = [](const auto& t) {
    Json json;
    json["token"] = readable(t.bytes);
    json["logprob"] = t.log_prob;
    json["bytes"] = bytes_of(t.bytes);
    return json;
  };
  Json entry = one(token);
  Json likeliest = Json::array();
  for (const auto& alternative : token.likeliest) likeliest.push_back(one(alternative));
  entry["top_logprobs"] = std::move(likeliest);
  return entry;
}

const ChatService& find_model(const ApiContext& context, const Fields& body) {
  const std::string name = body.required_text("model");
  if (const ChatService* service = context.models->find(name)) return *service;
  throw ApiError(404,
                 "the model " + describe(Json(name)).substr(11) +
                     " does not exist; GET /v1/models lists those that do",
                 "model", "model_not_found");
}

http::Response error_response(const ApiError& error, const std::string& request_id) {
  Json body;
  body["error"]["message"] = error.what();
  body["error"]["type"] = error_type(error.status);
  body["error"]["param"] = error.param.empty() ? Json(nullptr) : Json(error.param);
  body["error"]["code"] = error.code.empty() ? Json(nullptr) : Json(error.code);
  http::Response response{
      .status = error.status,
      .body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
  if (error.retry_after_s)
    response.headers.emplace_back("retry-after", std::to_string(*error.retry_after_s));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  // Trying again does not help against what is the same next time.
  if (error.status >= 400)
    response.headers.emplace_back("x-should-retry",
                                  error.retry_after_s ? "true" : "false");
  return response;
}

}  // namespace optiq::server::openai
