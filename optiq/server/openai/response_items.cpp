#include "optiq/server/openai/response_items.h"

#include <utility>

#include "optiq/server/openai/read_chat.h"

namespace optiq::server::openai {
namespace {

Json text_part(const std::string& text) {
  Json part;
  part["type"] = "output_text";
  part["text"] = text;
  part["annotations"] = Json::array();
  part["logprobs"] = Json::array();
  return part;
}

Json reasoning_part(const std::string& text) {
  Json part;
  part["type"] = "reasoning_text";
  part["text"] = text;
  return part;
}

}  // namespace

void ResponseItems::add(const char* type, Json fields, std::vector<Json>& events) {
  Json event;
  event["type"] = type;
  event["sequence_number"] = sequence_++;
  event.update(fields);
  events.push_back(std::move(event));
}

// Where an event of the open item belongs.
Json ResponseItems::place() const {
  Json place;
  place["item_id"] = output_.back()["id"];
  place["output_index"] = output_.size() - 1;
  if (open_ != Open::kCall) place["content_index"] = 0;
  return place;
}

std::vector<Json> ResponseItems::begin() {
  std::vector<Json> events;
  for (const char* type : {"response.created", "response.in_progress"}) {
    Json fields;
    fields["response"] = response();
    add(type, std::move(fields), events);
  }
  return events;
}

void ResponseItems::open_text(std::vector<Json>& events) {
  if (open_ == Open::kText) return;
  close(events);
  open_ = Open::kText;
  Json item;
  item["id"] = new_id("msg_");
  item["type"] = "message";
  item["status"] = "in_progress";
  item["role"] = "assistant";
  item["content"] = Json::array();
  output_.push_back(item);
  Json fields;
  fields["output_index"] = output_.size() - 1;
  fields["item"] = std::move(item);
  add("response.output_item.added", std::move(fields), events);
  Json part = place();
  part["part"] = text_part("");
  add("response.content_part.added", std::move(part), events);
  output_.back()["content"].push_back(text_part(""));
}

void ResponseItems::open_reasoning(std::vector<Json>& events) {
  if (open_ == Open::kReasoning) return;
  close(events);
  open_ = Open::kReasoning;
  Json item;
  item["id"] = new_id("rs_");
  item["type"] = "reasoning";
  item["summary"] = Json::array();
  item["content"] = Json::array();
  item["status"] = "in_progress";
  output_.push_back(item);
  Json fields;
  fields["output_index"] = output_.size() - 1;
  fields["item"] = std::move(item);
  add("response.output_item.added", std::move(fields), events);
  Json part = place();
  part["part"] = reasoning_part("");
  add("response.content_part.added", std::move(part), events);
  output_.back()["content"].push_back(reasoning_part(""));
}

std::vector<Json> ResponseItems::event(const AnswerEvent& event) {
  std::vector<Json> events;
  if (const auto* text = std::get_if<TextPiece>(&event)) {
    open_text(events);
    item()["content"][0]["text"].get_ref<std::string&>() += text->text;
    text_ += text->text;
    Json delta = place();
    delta["delta"] = text->text;
    delta["logprobs"] = Json::array();
    add("response.output_text.delta", std::move(delta), events);
  } else if (const auto* reasoning = std::get_if<ReasoningPiece>(&event)) {
    open_reasoning(events);
    item()["content"][0]["text"].get_ref<std::string&>() += reasoning->text;
    reasoning_ += reasoning->text;
    Json delta = place();
    delta["delta"] = reasoning->text;
    add("response.reasoning_text.delta", std::move(delta), events);
  } else if (const auto* call = std::get_if<ToolCallBegin>(&event)) {
    close(events);
    open_ = Open::kCall;
    Json item;
    item["id"] = new_id("fc_");
    item["type"] = "function_call";
    item["status"] = "in_progress";
    item["arguments"] = "";
    item["call_id"] = call->id;
    item["name"] = call->name;
    output_.push_back(item);
    Json fields;
    fields["output_index"] = output_.size() - 1;
    fields["item"] = std::move(item);
    add("response.output_item.added", std::move(fields), events);
  } else if (const auto* piece = std::get_if<ToolCallArguments>(&event)) {
    item()["arguments"].get_ref<std::string&>() += piece->json;
    Json delta = place();
    delta["delta"] = piece->json;
    add("response.function_call_arguments.delta", std::move(delta), events);
  } else {
    close(events);
  }
  return events;
}

void ResponseItems::close(std::vector<Json>& events) {
  if (open_ == Open::kNothing) return;
  Json done = place();
  if (open_ == Open::kCall) {
    done["name"] = item()["name"];
    done["arguments"] = item()["arguments"];
    add("response.function_call_arguments.done", std::move(done), events);
    Json call;
    call["id"] = item()["call_id"];
    call["type"] = "function";
    call["function"]["name"] = item()["name"];
    call["function"]["arguments"] =
        read_arguments(item()["arguments"].get_ref<const std::string&>());
    calls_.push_back(std::move(call));
  } else {
    const Json part = item()["content"][0];
    done["text"] = part["text"];
    if (open_ == Open::kText) done["logprobs"] = Json::array();
    add(open_ == Open::kText ? "response.output_text.done"
                             : "response.reasoning_text.done",
        std::move(done), events);
    Json whole = place();
    whole["part"] = part;
    add("response.content_part.done", std::move(whole), events);
  }
  item()["status"] = "completed";
  Json fields;
  fields["output_index"] = output_.size() - 1;
  fields["item"] = item();
  open_ = Open::kNothing;
  add("response.output_item.done", std::move(fields), events);
}

std::vector<Json> ResponseItems::end(const AnswerEnd& end) {
  std::vector<Json> events;
  close(events);
  const bool cut = end.reason == AnswerEnd::Reason::kLength ||
                   end.reason == AnswerEnd::Reason::kContextFull;
  status_ = cut ? "incomplete" : "completed";
  if (cut) incomplete_ = {{"reason", "max_output_tokens"}};
  Json usage;
  usage["input_tokens"] = end.use.prompt_tokens;
  usage["input_tokens_details"]["cached_tokens"] = end.use.cached_tokens;
  usage["output_tokens"] = end.use.completion_tokens;
  usage["output_tokens_details"]["reasoning_tokens"] = end.use.reasoning_tokens;
  usage["total_tokens"] = end.use.prompt_tokens + end.use.completion_tokens;
  usage_ = std::move(usage);
  Json fields;
  fields["response"] = response();
  add(cut ? "response.incomplete" : "response.completed", std::move(fields), events);
  return events;
}

std::vector<Json> ResponseItems::fail(const ApiError& error) {
  std::vector<Json> events;
  close(events);
  status_ = "failed";
  error_ = {{"code", "server_error"}, {"message", error.what()}};
  Json fields;
  fields["response"] = response();
  add("response.failed", std::move(fields), events);
  return events;
}

Json ResponseItems::response() const {
  Json json;
  json["id"] = settings_.id;
  json["object"] = "response";
  json["created_at"] = created_;
  json["status"] = status_;
  json["completed_at"] = status_ == "completed" ? Json(unix_time_s()) : Json(nullptr);
  json["error"] = error_;
  json["incomplete_details"] = incomplete_;
  json["model"] = settings_.model;
  json["output"] = output_;
  json.update(settings_.echoed);
  json["usage"] = usage_;
  return json;
}

Json ResponseItems::message() const {
  Json message;
  message["role"] = "assistant";
  message["content"] = text_;
  if (!reasoning_.empty()) message["reasoning_content"] = reasoning_;
  if (!calls_.empty()) message["tool_calls"] = calls_;
  return message;
}

}  // namespace optiq::server::openai
