#include "optiq/server/chat/answer_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

const ToolFormat* format(std::string_view name) {
  for (const ToolFormat& one : tool_formats())
    if (one.name == name) return &one;
  return nullptr;
}

DeclaredTools tools() {
  const Json schema = Json::parse(R"({"type": "object", "properties": {
    "place": {"type": "string"}, "days": {"type": "integer"}}})");
  return {{"weather", schema}, {"search", schema}};
}

// The events as one line: R reasoning, T text, C a call with its arguments parsed.
std::string told(std::string_view format_name, const std::string& text,
                 const std::vector<std::size_t>& cuts, bool in_reasoning = false,
                 int* failures = nullptr) {
  AnswerParser parser(
      {in_reasoning, format_name.empty() ? nullptr : format(format_name), tools()});
  std::vector<AnswerEvent> events;
  const auto add = [&](std::vector<AnswerEvent> more) {
    events.insert(events.end(), more.begin(), more.end());
  };
  std::size_t from = 0;
  for (const std::size_t cut : cuts) {
    add(parser.feed(std::string_view(text).substr(from, cut - from)));
    from = cut;
  }
  add(parser.feed(std::string_view(text).substr(from)));
  add(parser.finish());
  if (failures) *failures = parser.failures();
  std::string line, arguments;
  char last = ' ';
  const auto begin = [&](char kind) {
    if (last != kind) line += std::string(line.empty() ? "" : "|") + kind + ":";
    last = kind;
  };
  for (const AnswerEvent& event : events) {
    if (const auto* piece = std::get_if<ReasoningPiece>(&event)) {
      begin('R');
      line += piece->text;
    } else if (const auto* piece = std::get_if<TextPiece>(&event)) {
      begin('T');
      line += piece->text;
    } else if (const auto* call = std::get_if<ToolCallBegin>(&event)) {
      last = ' ';
      begin('C');
      EXPECT_TRUE(call->id.starts_with("call_"));
      line += call->name;
      arguments.clear();
    } else if (const auto* piece = std::get_if<ToolCallArguments>(&event)) {
      arguments += piece->json;
    } else {
      const Json parsed = Json::parse(arguments, nullptr, false);
      EXPECT_TRUE(parsed.is_object()) << arguments;
      line += parsed.is_object() ? parsed.dump() : "?" + arguments;
      last = ' ';
    }
  }
  return line;
}

struct Case {
  const char* format;
  const char* text;
  const char* told;
  bool in_reasoning = false;
};

const Case kCases[] = {
    {"hermes", "Hello, you.\n", "T:Hello, you.\n"},
    {"hermes", " leading", "T: leading"},
    {"hermes", "<think>\nhm\nhm\n</think>\n\nYes.", "R:hm\nhm|T:Yes."},
    {"hermes", "hm\n</think>\n\nYes.", "R:hm|T:Yes.", true},
    {"hermes", "<think>\nhm\n</think>\n\nYes.", "R:hm|T:Yes.", true},
    {"hermes", "never closed", "R:never closed", true},
    {"hermes", "a <think> b </think> c", "T:a <think> b </think> c"},
    {"hermes", "a < b </thin and <tool", "T:a < b </thin and <tool"},
    {"hermes",
     "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": "
     "\"Graz\"}}\n</tool_call>",
     "C:weather{\"place\":\"Graz\"}"},
    {"hermes",
     "Let me "
     "look.\n<tool_call>{\"name\":\"weather\",\"arguments\":{}}</"
     "tool_call>\n<tool_call>{\"name\":\"search\",\"arguments\":{\"a\":[1,{\"b\":2}]}}<"
     "/tool_call>\n",
     "T:Let me look.|C:weather{}|C:search{\"a\":[1,{\"b\":2}]}"},
    {"hermes",
     "<think>x</think><tool_call>{\"name\":\"weather\",\"arguments\":{}}</tool_call>",
     "R:x|C:weather{}"},
    // The arguments first, or as a string, or none; another key between.
    {"hermes",
     "<tool_call>{\"arguments\": {\"days\": 3}, \"name\": \"weather\"}</tool_call>",
     "C:weather{\"days\":3}"},
    {"hermes",
     "<tool_call>{\"name\": \"weather\", \"arguments\": \"{\\\"days\\\": "
     "3}\"}</tool_call>",
     "C:weather{\"days\":3}"},
    {"hermes", "<tool_call>{\"name\": \"weather\"}</tool_call>", "C:weather{}"},
    {"hermes",
     "<tool_call>{\"id\": 7, \"name\": \"weather\", \"arguments\": {\"days\": 3}, "
     "\"x\": 1}</tool_call>",
     "C:weather{\"days\":3}"},
    // Line breaks inside of strings, a brace too many, no end.
    {"hermes",
     "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": "
     "\"a\nb\"}}}\n</tool_call>",
     "C:weather{\"place\":\"a\\nb\"}"},
    {"hermes", "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": \"Graz",
     "C:weather{\"place\":\"Graz\"}"},
    {"hermes",
     "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": \"Graz\"}} and so "
     "on",
     "C:weather{\"place\":\"Graz\"}|T:and so on"},
    // An unknown name in tags is still a call: the client answers with an error.
    {"hermes", "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
     "C:unknown{}"},
    // Prose about calls, and code.
    {"hermes", "Use the `<tool_call>` tag.", "T:Use the `<tool_call>` tag."},
    {"hermes",
     "```\n<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>\n```\n",
     "T:```\n<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>\n```\n"},
    {"hermes", "<tool_call>not json</tool_call>", "T:<tool_call>not json</tool_call>"},
    {"", "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>",
     "T:<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>"},
    {"xml",
     "<tool_call>\n<function=weather>\n<parameter=place>\nGraz\n</"
     "parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
     "C:weather{\"place\":\"Graz\",\"days\":3}"},
    {"xml",
     "<tool_call><function=weather><parameter=place>3</parameter></function></"
     "tool_call>",
     "C:weather{\"place\":\"3\"}"},
    {"xml",
     "ok\n<function=weather>\n<parameter=place>\na < b\n</parameter>\n</function>",
     "T:ok|C:weather{\"place\":\"a < b\"}"},
    {"xml", "say <function=weather> to call it", "T:say <function=weather> to call it"},
    {"xml", "<function=undeclared>", "T:<function=undeclared>"},
    {"xml", "<tool_call>\n<function=weather>\n</function>\n</tool_call>",
     "C:weather{}"},
    {"xml", "<tool_call>\n<function=weather>\n<parameter=place>\nGra",
     "C:weather{\"place\":\"Gra\"}"},
    {"llama", "{\"name\": \"weather\", \"parameters\": {\"days\": 1}}",
     "C:weather{\"days\":1}"},
    {"llama", "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"days\": 1}}",
     "C:weather{\"days\":1}"},
    {"llama", "{\"answer\": 42}", "T:{\"answer\": 42}"},
    {"llama", "{not json", "T:{not json"},
    {"llama", "It is {\"name\": \"weather\", \"parameters\": {}}",
     "T:It is {\"name\": \"weather\", \"parameters\": {}}"},
    {"mistral",
     "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"days\": 1}}, {\"name\": "
     "\"search\", \"arguments\": {}}]",
     "C:weather{\"days\":1}|C:search{}"},
    {"mistral", "[TOOL_CALLS]weather[ARGS]{\"days\": 1}", "C:weather{\"days\":1}"},
    {"mistral", "[TOOL_CALLS]weather[ARGS]{\"days\": 1}[TOOL_CALLS]search[ARGS]{}",
     "C:weather{\"days\":1}|C:search{}"},
    {"mistral", "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"days\": 1",
     "C:weather{\"days\":1}"},
};

TEST(AnswerParser, TellsWhatAnAnswerHolds) {
  for (const Case& c : kCases)
    EXPECT_EQ(told(c.format, c.text, {}, c.in_reasoning), c.told) << c.text;
}

TEST(AnswerParser, TellsTheSameHoweverTheTextIsCut) {
  std::mt19937 random(1);
  for (const Case& c : kCases) {
    const std::string text = c.text;
    std::vector<std::size_t> all;
    for (std::size_t i = 1; i < text.size(); ++i) all.push_back(i);
    EXPECT_EQ(told(c.format, text, all, c.in_reasoning), c.told) << text;
    for (int round = 0; round < 10; ++round) {
      std::vector<std::size_t> some;
      for (const std::size_t cut : all)
        if (random() % 4 == 0) some.push_back(cut);
      EXPECT_EQ(told(c.format, text, some, c.in_reasoning), c.told) << text;
    }
  }
}

TEST(AnswerParser, ArgumentsComeAsTheyAreWritten) {
  AnswerParser parser({false, format("hermes"), tools()});
  parser.feed("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Gr");
  const auto events = parser.feed("az");
  ASSERT_FALSE(events.empty());
  EXPECT_NE(std::get_if<ToolCallArguments>(&events[0]), nullptr);
}

TEST(AnswerParser, BrokenCallsAreCounted) {
  int failures = 0;
  told("hermes", "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\": tru", {},
       false, &failures);
  EXPECT_EQ(failures, 1);
  told("hermes", "<tool_call>{\"name\": \"weather\"}</tool_call>", {}, false,
       &failures);
  EXPECT_EQ(failures, 0);
}

TEST(AnswerParser, MutatedAnswersAlwaysGiveWholeCalls) {
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    const Case& c = kCases[random() % std::size(kCases)];
    std::string text = c.text;
    for (unsigned k = 1 + random() % 4; k > 0 && !text.empty(); --k) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = "{}[]\",:\\<>/= \n0a"[random() % 16];
          break;
        case 1:
          text.erase(at, 1 + random() % 5);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), 6));
      }
    }
    told(c.format, text, {}, c.in_reasoning);  // expects each call's arguments to parse
  }
}

}  // namespace
}  // namespace optiq::server
