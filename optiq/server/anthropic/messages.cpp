#include "optiq/server/adapter_choice.h"
#include "optiq/server/anthropic/anthropic.h"
#include "optiq/server/anthropic/read_messages.h"
#include "optiq/server/anthropic/wire.h"
#include "optiq/server/http/sse.h"
#include "optiq/server/replying.h"

namespace optiq::server::anthropic {
namespace {

Json message_head(const std::string& id, const std::string& model) {
  Json json;
  json["id"] = id;
  json["type"] = "message";
  json["role"] = "assistant";
  json["model"] = model;
  json["content"] = Json::array();
  json["stop_reason"] = nullptr;
  json["stop_sequence"] = nullptr;
  json["stop_details"] = nullptr;
  json["container"] = nullptr;
  return json;
}

void add_stop(Json& json, const AnswerEnd& end) {
  json["stop_reason"] = stop_reason(end);
  json["stop_sequence"] = end.reason == AnswerEnd::Reason::kStopString
                              ? Json(end.stop_string)
                              : Json(nullptr);
}

class MessageStream final : public StreamWriter {
 public:
  explicit MessageStream(std::string model) : model_(std::move(model)) {}

  std::string begin(int prompt_tokens) override {
    Json json;
    json["message"] = message_head(new_message_id(), model_);
    json["message"]["usage"] = usage({prompt_tokens, cached_tokens_, 1, 0});
    return frame("message_start", std::move(json)) + keep_alive();
  }

  std::string started(int, int cached_tokens) override {
    cached_tokens_ = cached_tokens;
    return {};
  }

  std::string event(int, const AnswerEvent& event) override {
    if (const auto* text = std::get_if<TextPiece>(&event))
      return open(Block::kText) + delta("text_delta", "text", text->text);
    if (const auto* reasoning = std::get_if<ReasoningPiece>(&event))
      return open(Block::kThinking) +
             delta("thinking_delta", "thinking", reasoning->text);
    if (const auto* call = std::get_if<ToolCallBegin>(&event)) {
      std::string frames = close();
      Json block;
      block["type"] = "tool_use";
      block["id"] = tool_use_id(call->id);
      block["name"] = call->name;
      block["input"] = Json::object();
      return frames + start(Block::kTool, std::move(block));
    }
    if (const auto* piece = std::get_if<ToolCallArguments>(&event))
      return piece->json.empty()
                 ? ""
                 : delta("input_json_delta", "partial_json", piece->json);
    return close();
  }

  std::string ended(int, const AnswerEnd& end) override {
    std::string frames = close();
    Json json;
    add_stop(json["delta"], end);
    json["usage"] = usage(end.use);
    frames += frame("message_delta", std::move(json));
    return frames + frame("message_stop", Json::object());
  }

  std::string failed(const ApiError& error) override {
    return http::sse_event("error", error_response(error, "").body);
  }

  std::string keep_alive() override { return frame("ping", Json::object()); }

 private:
  enum class Block { kNone, kThinking, kText, kTool };

  static std::string frame(const char* type, Json fields) {
    Json json;
    json["type"] = type;
    json.update(fields);
    return http::sse_event(type,
                           json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  std::string start(Block block, Json content) {
    block_ = block;
    Json json;
    json["index"] = index_;
    json["content_block"] = std::move(content);
    return frame("content_block_start", std::move(json));
  }

  std::string delta(const char* type, const char* field,
                    const std::string& text) const {
    Json json;
    json["index"] = index_;
    json["delta"]["type"] = type;
    json["delta"][field] = text;
    return frame("content_block_delta", std::move(json));
  }

  std::string open(Block block) {
    if (block_ == block) return {};
    const std::string frames = close();
    Json content;
    content["type"] = block == Block::kText ? "text" : "thinking";
    content[block == Block::kText ? "text" : "thinking"] = "";
    if (block == Block::kThinking) content["signature"] = "";
    return frames + start(block, std::move(content));
  }

  std::string close() {
    if (block_ == Block::kNone) return {};
    std::string frames;
    if (block_ == Block::kThinking)
      frames = delta("signature_delta", "signature", signature());
    block_ = Block::kNone;
    Json json;
    json["index"] = index_++;
    return frames + frame("content_block_stop", std::move(json));
  }

  const std::string model_;
  int cached_tokens_ = 0;
  Block block_ = Block::kNone;
  int index_ = 0;
};

http::Response whole(const std::string& model, WholeChoice choice) {
  Json json = message_head(new_message_id(), model);
  Json& content = json["content"];
  if (!choice.reasoning.empty()) {
    Json block;
    block["type"] = "thinking";
    block["thinking"] = std::move(choice.reasoning);
    block["signature"] = signature();
    content.push_back(std::move(block));
  }
  if (!choice.text.empty()) {
    Json block;
    block["type"] = "text";
    block["text"] = std::move(choice.text);
    block["citations"] = nullptr;
    content.push_back(std::move(block));
  }
  for (const WholeChoice::Call& call : choice.calls) {
    Json block;
    block["type"] = "tool_use";
    block["id"] = tool_use_id(call.id);
    block["name"] = call.name;
    block["input"] = Json::parse(call.arguments, nullptr, false);
    if (!block["input"].is_object()) block["input"] = Json::object();
    block["caller"]["type"] = "direct";
    content.push_back(std::move(block));
  }
  add_stop(json, choice.end);
  json["usage"] = usage(choice.end.use);
  return {.body = json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

void answer(const ApiContext& context,
            const std::shared_ptr<http::Exchange>& exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  ChatRequest request = read_messages(body, context.defaults);
  request.adapter = chosen_adapter(body, service.model());
  const auto model = body.required_text("model");
  if (body.boolean("stream").value_or(false)) {
    stream_answer(context, exchange, service, request,
                  std::make_unique<MessageStream>(model));
    return;
  }
  const std::string id = exchange->request().id;
  whole_answer(
      context, exchange, service, request,
      [model](std::vector<WholeChoice> choices) {
        return whole(model, std::move(choices[0]));
      },
      [id](const ApiError& error) { return error_response(error, id); });
}

}  // namespace

void messages(const ApiContext& context, std::shared_ptr<http::Exchange> exchange) {
  try {
    answer(context, exchange);
  } catch (const std::exception& error) {
    throw told_error(error);
  }
}

void count_tokens(const ApiContext& context, std::shared_ptr<http::Exchange> exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  const ChatRequest request = read_messages(body, context.defaults, true);
  Json counted;
  counted["input_tokens"] = service.render(request).tokens.size();
  exchange->respond({.body = counted.dump()});
}

}  // namespace optiq::server::anthropic
