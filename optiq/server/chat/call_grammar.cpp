#include "optiq/server/chat/call_grammar.h"

#include <fmt/format.h>

#include <string_view>

namespace optiq::server {
namespace {

// A text as a literal of Lark.
std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

// A mark that may be a special token, which no text spells, or plain text.
std::string mark(const text::Tokenizer& tokenizer, const std::string& text) {
  const auto id = tokenizer.token_id(text);
  if (id && tokenizer.is_special(*id)) return fmt::format("<[{}]>", *id);
  return quoted(text);
}

// {"name": "f", "arguments": {...}} for each tool, as rules call_0, call_1...
std::string json_calls(const DeclaredTools& tools, const char* arguments) {
  std::string rules;
  int i = 0;
  for (const auto& [name, schema] : tools) {
    // A space behind colons and commas is the model's own choice.
    rules += fmt::format(R"(call_{0}: {1} " "? {2} "," " "? {3} " "? args_{0} "}}")", i,
                         quoted("{\"name\":"), quoted(quoted(name)),
                         quoted(quoted(arguments) + ":")) +
             "\n";
    Json one = schema.is_object() ? schema : Json(Json::object());
    if (!one.contains("type")) one["type"] = "object";
    one["x-guidance"] = {{"whitespace_flexible", false},
                         {"item_separator", ", ?"},
                         {"key_separator", ": ?"}};
    rules += fmt::format("args_{}: %json {}\n", i++, one.dump());
  }
  return rules;
}

std::string alternatives(std::size_t n) {
  std::string rule = "call_0";
  for (std::size_t i = 1; i < n; ++i) rule += fmt::format(" | call_{}", i);
  return rule;
}

// <function=f> with any of its parameters, whose values are text up to their end.
std::string xml_calls(const DeclaredTools& tools) {
  std::string rules;
  int i = 0;
  for (const auto& [name, schema] : tools) {
    std::string required, optional;
    const Json properties = schema.value("properties", Json(Json::object()));
    int k = 0;
    for (const auto& [key, value] : properties.items()) {
      const std::string rule = fmt::format("param_{}_{}", i, k++);
      rules += fmt::format("{}: {} value\n", rule, quoted("<parameter=" + key + ">\n"));
      bool is_required = false;
      for (const Json& one : schema.value("required", Json(Json::array())))
        is_required = is_required || one == key;
      if (is_required)
        required += " " + rule;
      else
        optional += " " + rule + "?";
    }
    rules += fmt::format("call_{}: {}{}{} \"</function>\"\n", i++,
                         quoted("<function=" + name + ">\n"), required, optional);
  }
  return rules + "value[suffix=\"\\n</parameter>\\n\"]: /(?s:.*)/\n";
}

bool is_tagged(const ToolFormat& format) {
  const std::string_view name = format.name;
  return name == "hermes" || name == "xml";
}

std::string tagged_calls(const ToolFormat& format, const DeclaredTools& tools) {
  return std::string_view(format.name) == "xml" ? xml_calls(tools)
                                                : json_calls(tools, "arguments");
}

}  // namespace

std::string opening_mark(const ToolFormat& format) {
  return is_tagged(format) ? "<tool_call>" : "";
}

text::Grammar call_rest_grammar(const ToolFormat& format,
                                const text::Tokenizer& tokenizer,
                                const DeclaredTools& tools) {
  return {text::Grammar::Kind::kLark,
          fmt::format("start: \"\\n\"? ({}) \"\\n\"? {}\n", alternatives(tools.size()),
                      mark(tokenizer, "</tool_call>")) +
              tagged_calls(format, tools)};
}

text::Grammar call_grammar(const ToolFormat& format, const text::Tokenizer& tokenizer,
                           const DeclaredTools& tools, bool parallel) {
  const std::string_view name = format.name;
  const std::string body = alternatives(tools.size());
  // Further calls, each behind a separator.
  const auto more = [&](const std::string& separator, const std::string& call) {
    return parallel ? fmt::format(" ({} {})*", separator, call) : std::string();
  };
  std::string source;
  if (name == "llama") {
    source = "start: (" + body + ")\n" + json_calls(tools, "parameters");
  } else if (name == "mistral") {
    source = fmt::format("start: {} \" \"? \"[\" ({}){} \"]\"\n",
                         mark(tokenizer, "[TOOL_CALLS]"), body,
                         more("\", \"", "(" + body + ")")) +
             json_calls(tools, "arguments");
  } else {
    const std::string open = mark(tokenizer, "<tool_call>");
    const std::string close = mark(tokenizer, "</tool_call>");
    const std::string one =
        fmt::format("{} \"\\n\"? ({}) \"\\n\"? {}", open, body, close);
    source =
        "start: " + one + more("\"\\n\"", one) + "\n" + tagged_calls(format, tools);
  }
  return {text::Grammar::Kind::kLark, std::move(source)};
}

}  // namespace optiq::server
