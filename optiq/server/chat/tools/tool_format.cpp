#include "optiq/server/chat/tools/tool_format.h"

#include <stdexcept>

namespace optiq::server {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<CallReader> bare_json(const DeclaredTools& tools) {
  return json_call(&tools);
}

std::unique_ptr<CallReader> bare_xml(const DeclaredTools& tools) {
  return xml_call(tools, true);
}

constexpr CallMark kTagged[] = {
    {.text = "<tool_call>", .reader = tagged_call},
    {.text = "<function=", .line_start = true, .reader = bare_xml},
};
constexpr CallMark kLlama[] = {
    {.text = "<|python_tag|>", .reader = bare_json},
    {.text = "{", .answer_start = true, .part_of_call = true, .reader = bare_json},
};
constexpr CallMark kMistral[] = {
    {.text = "[TOOL_CALLS]", .reader = mistral_calls},
};

constexpr ToolFormat kFormats[] = {
    {"hermes", kTagged},  // also Qwen; the JSON form in <tool_call>
    {"xml", kTagged},     // Qwen3-Coder; <function=...> in <tool_call>
    {"llama", kLlama},
    {"mistral", kMistral},
};

const ToolFormat& format(std::string_view name) {
  for (const ToolFormat& one : kFormats)
    if (one.name == name) return one;
  throw std::logic_error("no such tool format");
}

// What the template makes of a call that the model has made.
std::string shown_call(const text::ChatTemplate& chat_template) {
  const Json call = {
      {"type", "function"},
      {"id", "call12345"},
      {"function",
       {{"name", "probe_name"}, {"arguments", {{"probe_key", "probe_value"}}}}}};
  Json messages = Json::array();
  messages.push_back({{"role", "user"}, {"content", "x"}});
  messages.push_back(
      {{"role", "assistant"}, {"content", ""}, {"tool_calls", Json::array({call})}});
  try {
    text::ChatOptions options;
    options.add_generation_prompt = false;
    const std::string text = chat_template.render(messages, options).text;
    const auto at = text.find("probe_name");
    if (at == std::string::npos) return "";
    const auto begin = at > 200 ? at - 200 : 0;
    return text.substr(begin, at - begin + 200);
  } catch (const std::exception&) {
    return "";  // it refuses such a chat
  }
}

}  // namespace

std::span<const ToolFormat> tool_formats() { return kFormats; }

const ToolFormat& tool_format_of(const text::ChatTemplate& chat_template) {
  const std::string call = shown_call(chat_template);
  const auto has = [&](const char* text) {
    return call.find(text) != std::string::npos;
  };
  if (has("<function=probe_name>")) return format("xml");
  if (has("[TOOL_CALLS]")) return format("mistral");
  if (has("<tool_call>")) return format("hermes");
  if (has("\"parameters\"")) return format("llama");
  return kFormats[0];
}

}  // namespace optiq::server
