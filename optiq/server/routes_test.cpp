// All POST routes, without HTTP: what clients' bodies become, and that no body breaks
// them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <random>

#include "optiq/server/anthropic/anthropic.h"
#include "optiq/server/anthropic/read_messages.h"
#include "optiq/server/model_table.h"
#include "optiq/server/openai/openai.h"
#include "optiq/server/replying.h"
#include "optiq/server/testing/fake_exchange.h"
#include "optiq/server/testing/fixture.h"

namespace optiq::server {
namespace {

using testing::FakeExchange;

struct RouteCase {
  const char* name;
  void (*route)(const ApiContext&, std::shared_ptr<http::Exchange>);
  std::vector<const char*> bodies;
};

const std::vector<RouteCase>& routes() {
  static const auto* const all = new std::vector<RouteCase>{
      {"chat/completions",
       openai::chat_completions,
       {R"({"model": "demo", "messages": [{"role": "user", "content": "say [[hi]]"}]})",
        R"({"model": "demo", "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content":
            [{"type": "text", "text": "say [[a b c]]"}]}, {"role": "assistant",
            "content": null, "tool_calls": [{"id": "c1", "type": "function", "function":
            {"name": "f", "arguments": "{\"a\": 1}"}}]}, {"role": "tool",
            "tool_call_id": "c1", "content": "r"}], "tools": [{"type": "function",
            "function": {"name": "f", "parameters": {"type": "object", "properties":
            {"a": {"type": "integer"}}}}}], "tool_choice": "auto", "temperature": 0.5,
            "top_p": 0.9, "stop": ["x"], "seed": 1, "n": 2, "max_tokens": 8,
            "logit_bias": {"5": 1}, "logprobs": true, "top_logprobs": 2,
            "presence_penalty": 0.1, "frequency_penalty": 0.1, "response_format":
            {"type": "json_object"}})"}},
      {"completions",
       openai::completions,
       {R"({"model": "demo", "prompt": ["say [[a]]", "b"], "echo": true, "logprobs": 1,
            "max_tokens": 4, "n": 2, "stream": false})",
        R"({"model": "demo", "prompt": [1, 2, 3], "stream": true})"}},
      {"responses",
       openai::responses,
       {R"({"model": "demo", "input": "say [[a]]", "instructions": "i", "stream": true})",
        R"({"model": "demo", "input": [{"role": "user", "content": [{"type":
            "input_text", "text": "x"}]}, {"type": "function_call", "call_id": "c",
            "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id":
            "c", "output": "o"}, {"type": "reasoning", "summary": []}], "tools":
            [{"type": "function", "name": "f", "parameters": {}}], "text": {"format":
            {"type": "text"}}, "reasoning": {"effort": "low"}, "max_output_tokens": 9})"}},
      {"embeddings",
       openai::embeddings,
       {R"({"model": "demo", "input": ["a", "b"], "encoding_format": "base64"})",
        R"({"model": "demo", "input": [1, 2], "dimensions": 2})"}},
      {"messages",
       anthropic::messages,
       {R"({"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content":
            "say [[x]]"}]})",
        R"({"model": "claude-x", "max_tokens": 9, "stream": true, "system": [{"type":
            "text", "text": "s", "cache_control": {"type": "ephemeral"}}], "messages":
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "x"}}]},
            {"role": "system", "content": "i"}, {"role": "assistant", "content":
            [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type":
            "tool_use", "id": "u", "name": "f", "input": {"a": 1}}]}, {"role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "u", "content": [{"type":
            "text", "text": "r"}, {"type": "tool_reference", "tool_name": "g"}],
            "is_error": false}]}], "tools": [{"name": "f", "input_schema": {"type":
            "object"}}, {"name": "g", "defer_loading": true, "input_schema": {"type":
            "object"}}], "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled",
            "budget_tokens": 5}, "stop_sequences": ["x"], "output_config": {"effort":
            "high"}, "metadata": {"user_id": "u"}})"}},
      {"count_tokens",
       anthropic::count_tokens,
       {R"({"model": "demo", "tools": [], "messages": [{"role": "user", "content": "x"}]})"}},
  };
  return *all;
}

class Routes : public ::testing::Test {
 protected:
  Routes() : models_(testing::scripted_model(), {{"claude-*", "demo"}}) {
    context_.models = &models_;
    context_.defaults.max_tokens = 16;
  }

  // As the server calls it.
  std::shared_ptr<FakeExchange> ask(const RouteCase& route, const std::string& body) {
    auto exchange = std::make_shared<FakeExchange>(body);
    try {
      route.route(context_, exchange);
    } catch (const std::exception& error) {
      const ApiError told = told_error(error);
      exchange->respond(openai::error_response(told, "req_test"));
    }
    EXPECT_TRUE(exchange->wait()) << body;
    return exchange;
  }

  ModelTable models_;
  ApiContext context_{};
};

TEST_F(Routes, EachTakesWhatItsClientsSend) {
  for (const RouteCase& route : routes())
    for (const char* body : route.bodies) {
      const auto exchange = ask(route, body);
      EXPECT_EQ(exchange->status, 200) << route.name << ": " << exchange->body;
      EXPECT_FALSE(exchange->body.empty());
    }
}

// The data of each server-sent event.
std::vector<Json> events_of(const std::string& stream) {
  std::vector<Json> events;
  constexpr std::string_view kData = "data: ";
  for (auto at = stream.find(kData); at != std::string::npos;
       at = stream.find(kData, at)) {
    at += kData.size();
    const std::string line = stream.substr(at, stream.find('\n', at) - at);
    if (line != "[DONE]") events.push_back(Json::parse(line));
  }
  return events;
}

// An engine may be done before the route has written the head of the stream.
TEST_F(Routes, AnAnswerThatOvertakesItsHeadIsToldBehindIt) {
  const std::string prompt = R"("say [[{!at_once}well then]]")";
  const std::string messages =
      R"("messages": [{"role": "user", "content": )" + prompt + "}]";
  struct StreamCase {
    void (*route)(const ApiContext&, std::shared_ptr<http::Exchange>);
    std::string body;
    const char* first;  // event
    const char* last;
  };
  const StreamCase cases[] = {
      {openai::responses, R"("input": )" + prompt, "response.created",
       "response.completed"},
      {anthropic::messages, R"("max_tokens": 9, )" + messages, "message_start",
       "message_stop"},
      {openai::chat_completions, messages, nullptr, nullptr},
      {openai::completions, R"("prompt": )" + prompt, nullptr, nullptr},
  };
  for (const StreamCase& one : cases) {
    const auto exchange = ask({"", one.route, {}},
                              R"({"model": "demo", "stream": true, )" + one.body + "}");
    ASSERT_EQ(exchange->status, 200) << exchange->body;
    EXPECT_NE(exchange->body.find("well"), std::string::npos) << exchange->body;
    const auto events = events_of(exchange->body);
    ASSERT_GE(events.size(), 2u);
    if (!one.first) continue;
    EXPECT_EQ(events.front()["type"], one.first);
    EXPECT_EQ(events.back()["type"], one.last);
    if (events.front().contains("response"))
      EXPECT_TRUE(events.front()["response"]["output"].empty()) << events.front();
  }
}

// Somewhere in the JSON: another value, one more, one less.
void mutate(Json& json, std::mt19937& random) {
  static const char* const kValues[] = {"null",
                                        "true",
                                        "-1",
                                        "0",
                                        "1e308",
                                        "1.5",
                                        "\"\"",
                                        "\"x\"",
                                        "[]",
                                        "[[]]",
                                        "{}",
                                        "[null]",
                                        "{\"type\": \"text\"}",
                                        "\"\\u0000\"",
                                        "99999999999999999999",
                                        "\"<|im_end|>\"",
                                        "[1, 2]",
                                        "\"[[{!fail=x}]]\"",
                                        "\"[[<tool_call>{\\\"name\\\": 3]]\""};
  if ((json.is_object() || json.is_array()) && !json.empty() && random() % 4 != 0) {
    auto at = json.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random() % json.size()));
    if (random() % 8 == 0)
      json.erase(at);
    else
      mutate(*at, random);
    return;
  }
  json = Json::parse(kValues[random() % std::size(kValues)]);
}

TEST_F(Routes, NoBodyBreaksOne) {
  const char* rounds = std::getenv("OPTIQ_FUZZ_ROUNDS");
  const int n = rounds ? std::atoi(rounds) : 400;
  for (const RouteCase& route : routes()) {
    std::mt19937 random(11);
    for (int round = 0; round < n; ++round) {
      std::string body = route.bodies[random() % route.bodies.size()];
      if (random() % 3 == 0) {
        for (unsigned k = 1 + random() % 3; k > 0; --k)
          body[random() % body.size()] = static_cast<char>(random());
      } else {
        Json json = Json::parse(body);
        for (unsigned k = 1 + random() % 3; k > 0; --k) mutate(json, random);
        body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
      }
      const auto exchange = ask(route, body);
      // What a script was made to say fails as it says.
      const bool scripted = exchange->body.find("\"x\"") != std::string::npos;
      EXPECT_TRUE(exchange->status < 500 || scripted)
          << route.name << " " << exchange->status << " " << exchange->body << "\n"
          << body;
    }
  }
}

ChatRequest anthropic_request(const std::string& body) {
  const Json json = parse_body(body);
  return anthropic::read_messages(Fields(json, ""), {});
}

TEST(AnthropicRequests, TwoTurnsOfOneTalkShareTheirBeginningWhateverShapeTheyHave) {
  const ChatService service(testing::scripted_model());
  const auto first = service.render(anthropic_request(R"({"max_tokens": 9, "model": "m",
    "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=a1"},
               {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "Search", "input_schema": {"type": "object"}},
              {"name": "Fetch", "defer_loading": true, "input_schema": {"type": "object"}}],
    "messages": [
      {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
      {"role": "system", "content": [{"type": "text", "text": "Rules."}], "output_config": {}}]})"));
  const auto second =
      service.render(anthropic_request(R"({"max_tokens": 9, "model": "m",
    "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=b2"},
               {"type": "text", "text": "Be kind."}],
    "tools": [{"name": "Search", "input_schema": {"type": "object"}},
              {"name": "Added", "defer_loading": true, "input_schema": {"type": "object"}},
              {"name": "Fetch", "defer_loading": true, "input_schema": {"type": "object"}}],
    "messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Rules."},
      {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Search", "input": {}}]},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
        "content": [{"type": "tool_reference", "tool_name": "Fetch"}]}]}]})"));
  const auto& tokenizer = *service.model().tokenizer;
  // All but where the first one's answer begins.
  const auto end =
      tokenizer.encode(std::string("<|im_start|>assistant\n"),
                       {.add_special_tokens = false, .parse_special = true});
  const std::size_t shared = first.tokens.size() - end.size();
  ASSERT_GE(second.tokens.size(), shared);
  EXPECT_TRUE(std::equal(first.tokens.begin(),
                         first.tokens.begin() + static_cast<std::ptrdiff_t>(shared),
                         second.tokens.begin()))
      << tokenizer.decode(first.tokens) << "\n---\n"
      << tokenizer.decode(second.tokens);
  const std::string text = tokenizer.decode(second.tokens);
  EXPECT_EQ(text.find("billing"), std::string::npos);
  EXPECT_NE(text.find("<functions>\n<function>{\"name\":\"Fetch\""), std::string::npos)
      << text;
  EXPECT_EQ(text.find("Added"), std::string::npos);
}

TEST(ModelTable, APatternTakesAnyTextForAStar) {
  EXPECT_TRUE(matches_pattern("claude-*", "claude-opus"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("a*b*c", "aXbYbZc"));
  EXPECT_FALSE(matches_pattern("a*b*c", "aXbYbZ"));
  EXPECT_FALSE(matches_pattern("claude-*", "gpt"));
  EXPECT_THROW(ModelTable(testing::scripted_model(), {{"x", "nobody"}}),
               std::invalid_argument);
}

}  // namespace
}  // namespace optiq::server
