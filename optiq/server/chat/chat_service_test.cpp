#include "optiq/server/chat/chat_service.h"

#include <gtest/gtest.h>

#include "optiq/server/testing/fixture.h"

namespace optiq::server {
namespace {

using testing::Heard;
using testing::scripted_model;

ChatRequest ask(const std::string& text) {
  ChatRequest request;
  request.messages.push_back({{"role", "user"}, {"content", text}});
  request.max_tokens = 200;
  return request;
}

Json weather() {
  return Json::parse(R"([{"type": "function", "function": {"name": "weather",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"},
    "days": {"type": "integer", "maximum": 9}}, "required": ["place"],
    "additionalProperties": false}}}])");
}

std::shared_ptr<Heard> answer(const ChatService& service, const ChatRequest& request) {
  auto heard = std::make_shared<Heard>();
  const auto answering = service.answer(request, heard);
  heard->wait(request.n);
  return heard;
}

TEST(ChatService, ReasoningTextAndUseAreTold) {
  const ChatService service(scripted_model());
  const auto heard =
      answer(service, ask("say [[<think>\nhm, hm\n</think>\n\nForty-two.]]"));
  EXPECT_EQ(heard->choices[0].reasoning, "hm, hm");
  EXPECT_EQ(heard->choices[0].text, "Forty-two.");
  const AnswerEnd& end = *heard->choices[0].end;
  EXPECT_EQ(end.reason, AnswerEnd::Reason::kEnd);
  EXPECT_GT(end.use.reasoning_tokens, 2);
  EXPECT_GT(end.use.completion_tokens, end.use.reasoning_tokens);
}

TEST(ChatService, HiddenReasoningIsMadeButNotTold) {
  const ChatService service(scripted_model());
  auto request = ask("say [[<think>\nhm\n</think>\n\nYes.]]");
  request.thinking.shown = false;
  const auto heard = answer(service, request);
  EXPECT_EQ(heard->choices[0].reasoning, "");
  EXPECT_EQ(heard->choices[0].text, "Yes.");
}

TEST(ChatService, EachChoiceEndsOnce) {
  const ChatService service(scripted_model());
  auto request = ask("say [[same]]");
  request.n = 4;
  const auto heard = answer(service, request);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(heard->choices[i].text, "same");
}

TEST(ChatService, DroppingAnAnswerCancelsIt) {
  const ChatService service(scripted_model());
  auto heard = std::make_shared<Heard>();
  auto answering = service.answer(ask("say [[{!hang}x]]"), heard);
  answering.reset();
  heard->wait(1);
  EXPECT_EQ(heard->choices[0].end->reason, AnswerEnd::Reason::kCancelled);
}

TEST(ChatService, ASchemaHoldsWhateverTheModelWouldSay) {
  const ChatService service(scripted_model());
  auto request = ask("say [[no json at all]]");
  request.format.kind = AnswerFormat::Kind::kJsonSchema;
  request.format.schema = Json::parse(R"({"type": "object",
    "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
    "additionalProperties": false})");
  const auto heard = answer(service, request);
  const Json value = Json::parse(heard->choices[0].text, nullptr, false);
  EXPECT_TRUE(value.is_object() && value["ok"].is_boolean()) << heard->choices[0].text;
}

TEST(ChatService, WhatTheModelSaysWithinTheSchemaStays) {
  const ChatService service(scripted_model());
  for (const char* text : {R"({"ok": true})", R"({"ok":false})"}) {
    auto request = ask(std::string("say [[") + text + "]]");
    request.format.kind = AnswerFormat::Kind::kJsonSchema;
    request.format.schema = Json::parse(
        R"({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})");
    EXPECT_EQ(answer(service, request)->choices[0].text, text);
  }
}

TEST(ChatService, AChoiceIsOneOfThem) {
  const ChatService service(scripted_model());
  auto request = ask("say [[maybe]]");
  request.format.kind = AnswerFormat::Kind::kChoice;
  request.format.choices = {"yes (a+b)", "no."};
  const std::string text = answer(service, request)->choices[0].text;
  EXPECT_TRUE(text == "yes (a+b)" || text == "no.") << text;
}

TEST(ChatService, ARequiredToolIsCalledWithArgumentsOfItsSchema) {
  const ChatService service(scripted_model());
  for (const auto kind : {ToolChoice::Kind::kRequired, ToolChoice::Kind::kNamed}) {
    auto request = ask("say [[no, thank you]]");
    request.tools = weather();
    request.tool_choice = {kind, "weather", false};
    const auto heard = answer(service, request);
    ASSERT_EQ(heard->choices[0].calls.size(), 1u) << heard->choices[0].text;
    const Json arguments = Json::parse(heard->choices[0].calls[0].arguments);
    EXPECT_TRUE(arguments["place"].is_string());
    EXPECT_EQ(heard->choices[0].end->reason, AnswerEnd::Reason::kToolCalls);
  }
}

TEST(ChatService, ACallThatTheModelBeginsIsWellFormedAndOfADeclaredTool) {
  const ChatService service(scripted_model());
  auto request =
      ask("[[Let me see.\n<tool_call>\n{\"name\": \"wether\", \"arguments\": "
          "{\"days\": 77, oops]]");
  request.tools = weather();
  const auto heard = answer(service, request);
  ASSERT_EQ(heard->choices[0].calls.size(), 1u) << heard->choices[0].text;
  EXPECT_EQ(heard->choices[0].text, "Let me see.");
  EXPECT_EQ(heard->choices[0].calls[0].name, "weather");
  const Json arguments = Json::parse(heard->choices[0].calls[0].arguments);
  EXPECT_TRUE(arguments["place"].is_string());
  EXPECT_EQ(heard->choices[0].end->reason, AnswerEnd::Reason::kToolCalls);
}

TEST(ChatService, AMarkThatIsTalkedAboutConstrainsNothing) {
  const ChatService service(scripted_model());
  auto request = ask("[[Write <tool_call> and then the call.]]");
  request.tools = weather();
  EXPECT_EQ(answer(service, request)->choices[0].text,
            "Write <tool_call> and then the call.");
}

TEST(ChatService, NoToolIsCalledWhereNoneMayBe) {
  const ChatService service(scripted_model());
  auto request =
      ask("[[<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"x\"}}\n"
          "</tool_call>]]");
  request.tools = weather();
  EXPECT_EQ(answer(service, request)->choices[0].calls.size(), 1u);
  request.tool_choice.kind = ToolChoice::Kind::kNone;
  EXPECT_EQ(answer(service, request)->choices[0].calls.size(), 0u);
}

TEST(ChatService, ThinkingEndsWithItsBudget) {
  const ChatService service(scripted_model());
  auto request = ask("say [[one two three four five six seven eight nine ten]]");
  request.thinking.enabled = true;
  request.thinking.budget = 4;
  const auto heard = answer(service, request);
  EXPECT_EQ(heard->choices[0].reasoning.find("eight"), std::string::npos);
  EXPECT_FALSE(heard->choices[0].reasoning.empty());
  EXPECT_FALSE(heard->choices[0].text.empty());
}

TEST(ChatService, AStrictSchemaThatCannotBeEnforcedIsRefusedAndARelaxedOneIsNot) {
  const ChatService service(scripted_model());
  auto request = ask("say [[{\"a\": \"x\"}]]");
  request.format.kind = AnswerFormat::Kind::kJsonSchema;
  request.format.schema = Json::parse(R"({"type": "object", "properties":
    {"a": {"type": "string"}}, "if": {"required": ["a"]}, "then": {"required": ["b"]}})");
  EXPECT_EQ(answer(service, request)->choices[0].text, "{\"a\": \"x\"}");
  request.format.strict = true;
  EXPECT_THROW(service.answer(request, std::make_shared<Heard>()),
               std::invalid_argument);
}

TEST(ChatService, BoundariesLieWhereMessagesEndAndPromptsShareThem) {
  const ChatService service(scripted_model());
  ChatRequest request;
  request.messages = Json::parse(R"([{"role": "system", "content": "Be kind."},
    {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"}])");
  const ChatPrompt prompt = service.render(request);
  ASSERT_EQ(prompt.boundaries.size(), 2u);
  const auto& tokenizer = *service.model().tokenizer;
  const auto before = [&](int n) {
    return tokenizer.decode(
        std::span(prompt.tokens).first(static_cast<std::size_t>(n)));
  };
  EXPECT_TRUE(before(prompt.boundaries[0]).ends_with("<|im_start|>user\n"));
  EXPECT_TRUE(before(prompt.boundaries[1]).ends_with("two<|im_end|>\n"));
  request.messages[3]["content"] = "other";
  const ChatPrompt other = service.render(request);
  EXPECT_TRUE(std::equal(prompt.tokens.begin(),
                         prompt.tokens.begin() + prompt.boundaries[1],
                         other.tokens.begin()));
}

TEST(ChatService, WhatTheTemplateRefusesIsTheCallersMistake) {
  const ChatService service(scripted_model());
  ChatRequest request = ask("x");
  request.tool_choice = {ToolChoice::Kind::kNamed, "nobody", true};
  EXPECT_THROW(service.answer(request, std::make_shared<Heard>()),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::server
