#include "optiq/server/adapter_choice.h"
#include "optiq/server/http/sse.h"
#include "optiq/server/openai/openai.h"
#include "optiq/server/openai/read_response.h"
#include "optiq/server/openai/response_items.h"
#include "optiq/server/openai/response_store.h"

namespace optiq::server::openai {
namespace {

// One for the process: ids are random, and tell nothing.
ResponseStore& store() {
  static auto* const kept = new ResponseStore;
  return *kept;
}

// The request's own settings, which replies repeat.
Json echoed(const Fields& body) {
  Json json;
  const auto repeat = [&](const char* name, Json otherwise) {
    const Json* given = body.find(name);
    json[name] = given ? *given : std::move(otherwise);
  };
  repeat("instructions", nullptr);
  repeat("max_output_tokens", nullptr);
  repeat("metadata", Json::object());
  repeat("parallel_tool_calls", true);
  repeat("previous_response_id", nullptr);
  repeat("reasoning", {{"effort", nullptr}, {"summary", nullptr}});
  repeat("store", true);
  repeat("temperature", 1.0);
  repeat("text", {{"format", {{"type", "text"}}}});
  repeat("tool_choice", "auto");
  repeat("tools", Json::array());
  repeat("top_p", 1.0);
  repeat("truncation", "disabled");
  repeat("presence_penalty", 0.0);
  repeat("frequency_penalty", 0.0);
  repeat("top_logprobs", 0);
  repeat("max_tool_calls", nullptr);
  repeat("background", false);
  repeat("service_tier", "default");
  repeat("user", nullptr);
  repeat("prompt_cache_key", nullptr);
  repeat("safety_identifier", nullptr);
  for (Json& tool : json["tools"])
    if (tool.is_object()) {
      for (const char* name : {"description", "parameters"})
        if (!tool.contains(name)) tool[name] = nullptr;
      if (!tool.contains("strict")) tool["strict"] = false;
    }
  return json;
}

class ResponseStream final : public StreamWriter {
 public:
  ResponseStream(ResponseItems items, std::function<void(const ResponseItems&)> keep)
      : items_(std::move(items)), keep_(std::move(keep)) {}

  std::string begin(int) override { return frames(items_.begin()); }
  std::string event(int, const AnswerEvent& event) override {
    return frames(items_.event(event));
  }
  std::string ended(int, const AnswerEnd& end) override {
    const std::string last = frames(items_.end(end));
    keep_(items_);
    return last;
  }
  std::string failed(const ApiError& error) override {
    return frames(items_.fail(error));
  }
  std::string keep_alive() override { return http::sse_comment("keep-alive"); }

 private:
  static std::string frames(const std::vector<Json>& events) {
    std::string text;
    for (const Json& event : events)
      text +=
          http::sse_event(event["type"].get_ref<const std::string&>(),
                          event.dump(-1, ' ', false, Json::error_handler_t::replace));
    return text;
  }

  ResponseItems items_;
  const std::function<void(const ResponseItems&)> keep_;
};

http::Response whole(ResponseItems items, WholeChoice choice,
                     const std::function<void(const ResponseItems&)>& keep) {
  items.begin();
  if (!choice.reasoning.empty()) items.event(ReasoningPiece{choice.reasoning});
  if (!choice.text.empty()) items.event(TextPiece{choice.text});
  for (const WholeChoice::Call& call : choice.calls) {
    items.event(ToolCallBegin{call.id, call.name});
    items.event(ToolCallArguments{call.arguments});
    items.event(ToolCallEnd{});
  }
  items.end(choice.end);
  keep(items);
  return {.body =
              items.response().dump(-1, ' ', false, Json::error_handler_t::replace)};
}

}  // namespace

void responses(const ApiContext& context, std::shared_ptr<http::Exchange> exchange) {
  const Json json = parse_body(exchange->request().body);
  const Fields body(json, "");
  const ChatService& service = find_model(context, body);
  Json earlier = Json::array();
  if (const auto id = body.text("previous_response_id")) {
    auto found = store().find(*id);
    if (!found)
      throw ApiError(404, "previous_response_id: there is no such response (any more)",
                     "previous_response_id", "previous_response_not_found");
    earlier = std::move(*found);
  }
  ChatRequest request = read_response(body, context.defaults, std::move(earlier));
  request.adapter = chosen_adapter(body, service.model());
  const std::string id = new_id("resp_");
  Json messages = request.messages;
  // Instructions are those of one response alone.
  if (body.has("instructions")) messages.erase(0);
  const bool stored = body.boolean("store").value_or(true);
  const auto keep = [id, stored, messages](const ResponseItems& items) {
    if (!stored) return;
    Json all = messages;
    all.push_back(items.message());
    store().keep(id, std::move(all));
  };
  ResponseItems items({id, body.required_text("model"), echoed(body)});
  if (body.boolean("stream").value_or(false)) {
    stream_answer(context, std::move(exchange), service, request,
                  std::make_unique<ResponseStream>(std::move(items), keep));
    return;
  }
  const std::string request_id = exchange->request().id;
  whole_answer(
      context, std::move(exchange), service, request,
      [items = std::move(items), keep](std::vector<WholeChoice> choices) {
        return whole(items, std::move(choices[0]), keep);
      },
      [request_id](const ApiError& error) {
        return error_response(error, request_id);
      });
}

}  // namespace optiq::server::openai
