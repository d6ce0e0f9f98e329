#include "optiq/sensitivity/sample_tokens.h"

#include <stdexcept>

namespace optiq::sensitivity {
namespace {

using json = nlohmann::ordered_json;

// Messages without a template are their text, role by role.
std::string plain_text(const json& messages) {
  std::string text;
  for (const json& message : messages) {
    text += message.value("role", "user") + ": ";
    if (message.contains("content") && message["content"].is_string())
      text += message["content"].get<std::string>();
    text += "\n";
  }
  return text;
}

}  // namespace

Tokenize tokenize_with(const text::Tokenizer& tokenizer,
                       const std::optional<text::ChatTemplate>& chat_template) {
  return [&](const json& sample) {
    if (sample.contains("text"))
      return tokenizer.encode(sample["text"].get<std::string>());
    if (chat_template) {
      text::ChatOptions options;
      options.add_generation_prompt = false;
      if (sample.contains("tools")) options.tools = sample["tools"];
      try {
        return tokenizer.encode(chat_template->render(sample["messages"], options));
      } catch (const std::invalid_argument&) {
        // Its text then.
      }
    }
    return tokenizer.encode(plain_text(sample["messages"]));
  };
}

}  // namespace optiq::sensitivity
