#include <fmt/format.h>

#include "optiq/server/adapter_choice.h"
#include "optiq/server/http/sse.h"
#include "optiq/server/openai/openai.h"
#include "optiq/server/openai/read_chat.h"
#include "optiq/server/openai/wire.h"
#include "optiq/server/replying.h"

namespace optiq::server::openai {
namespace {

constexpr const char* kFingerprint = "fp_optiq";

// What all chunks of a stream, or the one body, have.
struct Envelope {
  std::string id = new_id("chatcmpl-");
  std::int64_t created = unix_time_s();
  std::string model;

  Json with(const char* object) const {
    Json json;
    json["id"] = id;
    json["object"] = object;
    json["created"] = created;
    json["model"] = model;
    json["system_fingerprint"] = kFingerprint;
    return json;
  }
};

class ChatStream final : public StreamWriter {
 public:
  ChatStream(Envelope envelope, int n, bool include_usage, bool log_probs)
      : envelope_(std::move(envelope)),
        include_usage_(include_usage),
        log_probs_(log_probs),
        choices_(static_cast<std::size_t>(n)) {}

  std::string begin(int) override {
    std::string frames;
    for (int i = 0; i < static_cast<int>(choices_.size()); ++i) {
      Json delta;
      delta["role"] = "assistant";
      delta["content"] = "";
      frames += chunk(i, std::move(delta), nullptr);
    }
    return frames;
  }

  std::string token(int choice, const TokenRecord& token) override {
    if (log_probs_) at(choice).log_probs.push_back(log_prob_entry(token));
    return {};
  }

  std::string event(int choice, const AnswerEvent& event) override {
    Json delta;
    if (const auto* text = std::get_if<TextPiece>(&event)) {
      delta["content"] = text->text;
    } else if (const auto* reasoning = std::get_if<ReasoningPiece>(&event)) {
      delta["reasoning_content"] = reasoning->text;
    } else if (const auto* call = std::get_if<ToolCallBegin>(&event)) {
      // Clients put together what repeats: id, type and name come once.
      Json one;
      one["index"] = at(choice).calls++;
      one["id"] = call->id;
      one["type"] = "function";
      one["function"]["name"] = call->name;
      one["function"]["arguments"] = "";
      delta["tool_calls"] = Json::array({std::move(one)});
    } else if (const auto* piece = std::get_if<ToolCallArguments>(&event)) {
      Json one;
      one["index"] = at(choice).calls - 1;
      one["function"]["arguments"] = piece->json;
      delta["tool_calls"] = Json::array({std::move(one)});
    } else {
      return {};
    }
    return chunk(choice, std::move(delta), nullptr);
  }

  std::string ended(int choice, const AnswerEnd& end) override {
    uses_.push_back(end.use);
    return chunk(choice, Json::object(), finish_reason(end));
  }

  std::string finish() override {
    std::string frames;
    if (include_usage_) {
      Json json = envelope_.with("chat.completion.chunk");
      json["choices"] = Json::array();
      json["usage"] = usage(uses_);
      frames += data(json);
    }
    return frames + http::sse_data("[DONE]");
  }

  std::string failed(const ApiError& error) override {
    return http::sse_data(error_response(error, "").body);
  }

  std::string keep_alive() override { return http::sse_comment("keep-alive"); }

 private:
  struct Choice {
    int calls = 0;
    Json log_probs = Json::array();  // of tokens that no chunk has told yet
  };

  Choice& at(int choice) { return choices_[static_cast<std::size_t>(choice)]; }

  static std::string data(const Json& json) {
    return http::sse_data(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  std::string chunk(int index, Json delta, const char* reason) {
    Json choice;
    choice["index"] = index;
    choice["delta"] = std::move(delta);
    choice["logprobs"] = nullptr;
    if (Json& tokens = at(index).log_probs; !tokens.empty()) {
      choice["logprobs"]["content"] = std::exchange(tokens, Json::array());
      choice["logprobs"]["refusal"] = nullptr;
    }
    choice["finish_reason"] = reason ? Json(reason) : Json(nullptr);
    Json json = envelope_.with("chat.completion.chunk");
    json["choices"] = Json::array({std::move(choice)});
    if (include_usage_) json["usage"] = nullptr;
    return data(json);
  }

  const Envelope envelope_;
  const bool include_usage_;
  const bool log_probs_;
  std::vector<Choice> choices_;
  std::vector<AnswerUse> uses_;
};

Json message_of(WholeChoice& choice) {
  Json message;
  message["role"] = "assistant";
  const bool silent = choice.text.empty() && !choice.calls.empty();
  message["content"] = silent ? Json(nullptr) : Json(std::move(choice.text));
  message["refusal"] = nullptr;
  message["annotations"] = Json::array();
  if (!choice.reasoning.empty())
    message["reasoning_content"] = std::move(choice.reasoning);
  if (choice.calls.empty()) return message;
  Json calls = Json::array();
  for (WholeChoice::Call& call : choice.calls) {
    Json one;
    one["id"] = call.id;
    one["type"] = "function";
    one["function"]["name"] = call.name;
    one["function"]["arguments"] = std::move(call.arguments);
    calls.push_back(std::move(one));
  }
  message["tool_calls"] = std::move(calls);
  return message;
}

http::Response whole(const Envelope& envelope, std::vector<WholeChoice> choices) {
  Json body = envelope.with("chat.completion");
  body["choices"] = Json::array();
  std::vector<AnswerUse> uses;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    Json choice;
    choice["index"] = i;
    choice["message"] = message_of(choices[i]);
    choice["logprobs"] = nullptr;
    if (!choices[i].tokens.empty()) {
      Json content = Json::array();
      for (const TokenRecord& token : choices[i].tokens)
        content.push_back(log_prob_entry(token));
      choice["logprobs"]["content"] = std::move(content);
      choice["logprobs"]["refusal"] = nullptr;
    }
    choice["finish_reason"] = finish_reason(choices[i].end);
    body["choices"].push_back(std::move(choice));
    uses.push_back(choices[i].end.use);
  }
  body["usage"] = usage(uses);
  return {.body = body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

}  // namespace

void chat_completions(const ApiContext& context,
                      std::shared_ptr<http::Exchange> exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  ChatRequest request = read_chat(body, context.defaults);
  request.adapter = chosen_adapter(body, service.model());
  Envelope envelope;
  envelope.model = body.required_text("model");
  if (body.boolean("stream").value_or(false)) {
    bool include_usage = false;
    if (const auto options = body.object("stream_options"))
      include_usage = options->boolean("include_usage").value_or(false);
    stream_answer(context, std::move(exchange), service, request,
                  std::make_unique<ChatStream>(std::move(envelope), request.n,
                                               include_usage, request.log_probs >= 0));
    return;
  }
  const std::string id = exchange->request().id;
  whole_answer(
      context, std::move(exchange), service, request,
      [envelope](std::vector<WholeChoice> choices) {
        return whole(envelope, std::move(choices));
      },
      [id](const ApiError& error) { return error_response(error, id); });
}

}  // namespace optiq::server::openai
