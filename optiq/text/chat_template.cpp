#include "optiq/text/chat_template.h"

#include <algorithm>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/text/rust_call.h"

namespace optiq::text {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::size_t kTemplateLimit = std::size_t{4} << 20;
constexpr std::size_t kConfigLimit = std::size_t{64} << 20;

// Stands at the end of a message that is to be continued; the prompt ends before it.
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

std::string dump(const Json& value) {
  try {
    return value.dump();
  } catch (const nlohmann::json::exception&) {
    throw std::invalid_argument("[render] the messages hold text that is not UTF-8");
  }
}

/// The text that a continued message ends with: its content, or the last text part.
std::string& final_text(Json& messages) {
  if (messages.is_array() && !messages.empty() && messages.back().is_object()) {
    Json& content = messages.back()["content"];
    if (content.is_string()) return content.get_ref<std::string&>();
    if (content.is_array()) {
      const auto text =
          std::find_if(content.rbegin(), content.rend(), [](const Json& part) {
            return part.is_object() && part.contains("text") &&
                   part["text"].is_string();
          });
      if (text != content.rend()) return (*text)["text"].get_ref<std::string&>();
    }
  }
  throw std::invalid_argument("[render] the last message has no text to continue");
}

void cut_at_tag(Prompt& prompt) {
  const std::string_view bare = kContinueTag.substr(0, kContinueTag.size() - 1);
  const std::size_t at = prompt.text.rfind(bare);
  if (at == std::string::npos) {
    throw std::invalid_argument(
        "[render] the chat template drops a part of the last message, which can "
        "therefore not be continued");
  }
  // A template that strips messages has stripped the tag's space: the text before the
  // tag is then stripped as well.
  const bool stripped = prompt.text.compare(at, kContinueTag.size(), kContinueTag) != 0;
  prompt.text.resize(at);
  if (stripped) {
    prompt.text.resize(prompt.text.find_last_not_of(" \t\n\r\v\f") + 1);
  }
  std::erase_if(prompt.literal_at,
                [&](std::size_t offset) { return offset >= prompt.text.size(); });
}

Json parse_config(const fs::path& path) {
  const Json config =
      Json::parse(read_file(path, kConfigLimit), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    throw CheckpointError(path.string() + ": expected a JSON object");
  }
  return config;
}

/// Templates by name, of the `chat_template` entry of a config.
std::map<std::string, std::string> templates_of(const fs::path& path) {
  std::map<std::string, std::string> templates;
  const Json config = parse_config(path);
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return templates;
  if (entry->is_string()) return {{"default", entry->get<std::string>()}};
  const Json list = entry->is_array() ? *entry : Json::array({nullptr});
  for (const Json& named : list) {
    const auto text = [&](const char* key) {
      return named.is_object() && named.contains(key) && named[key].is_string();
    };
    if (!text("name") || !text("template")) {
      throw CheckpointError(
          path.string() +
          ": chat_template must be a text or a list of objects {name, template}");
    }
    templates[named["name"].get<std::string>()] = named["template"].get<std::string>();
  }
  return templates;
}

}  // namespace

void ChatTemplate::add(const std::string& name, std::string_view source,
                       const Tokenizer& tokenizer, const std::string& file) {
  optiq_template* handle = nullptr;
  OwnedBytes error;
  check(
      optiq_template_new(view(source), tokenizer.handle().get(), &handle, error.out()),
      error, file, "");
  sources_[name] = {{handle, optiq_template_free}, file};
}

ChatTemplate ChatTemplate::parse(std::string_view source, const Tokenizer& tokenizer,
                                 const std::string& file) {
  ChatTemplate chat;
  chat.special_tokens_ = Json(tokenizer.special_tokens()).dump();
  chat.add("default", source, tokenizer, file);
  return chat;
}

std::optional<ChatTemplate> ChatTemplate::load(const fs::path& dir,
                                               const Tokenizer& tokenizer) {
  ChatTemplate chat;
  chat.special_tokens_ = Json(tokenizer.special_tokens()).dump();
  const auto add_file = [&](const std::string& name, const fs::path& path) {
    chat.add(name, read_file(path, kTemplateLimit), tokenizer, path.string());
  };
  if (const auto path = dir / "chat_template.jinja"; fs::exists(path)) {
    add_file("default", path);
  }
  if (const auto more = dir / "additional_chat_templates"; fs::is_directory(more)) {
    for (const auto& entry : fs::directory_iterator(more)) {
      if (entry.path().extension() == ".jinja") {
        add_file(entry.path().stem().string(), entry.path());
      }
    }
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const auto path = dir / name;
    if (!chat.sources_.empty() || !fs::exists(path)) continue;
    for (const auto& [template_name, source] : templates_of(path)) {
      chat.add(template_name, source, tokenizer, path.string());
    }
  }
  if (chat.sources_.empty()) return std::nullopt;
  return chat;
}

const ChatTemplate::Source& ChatTemplate::choose(const ChatOptions& options) const {
  if (const auto tool_use = sources_.find("tool_use");
      !options.tools.is_null() && tool_use != sources_.end()) {
    return tool_use->second;
  }
  if (const auto found = sources_.find("default"); found != sources_.end()) {
    return found->second;
  }
  throw std::invalid_argument(
      "[render] the model has no chat template for this: none "
      "of its templates is called \"default\"");
}

Prompt ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  if (!options.variables.is_object()) {
    throw std::invalid_argument("[render] variables must be an object");
  }
  Json given = options.variables;
  given["tools"] = options.tools;
  if (!given.contains("documents")) given["documents"] = nullptr;
  given["add_generation_prompt"] =
      options.add_generation_prompt && !options.continue_final_message;
  if (options.enable_thinking) given["enable_thinking"] = *options.enable_thinking;

  std::string messages_json;
  if (options.continue_final_message) {
    Json continued = messages;
    final_text(continued) += kContinueTag;
    messages_json = dump(continued);
  } else {
    messages_json = dump(messages);
  }

  const Source& source = choose(options);
  OwnedBytes text;
  OwnedOffsets literal_at;
  OwnedBytes error;
  check(optiq_template_render(source.handle.get(), view(messages_json),
                              view(dump(given)), view(special_tokens_),
                              options.now_s ? &*options.now_s : nullptr, text.out(),
                              literal_at.out(), error.out()),
        error, source.file, "");
  const auto offsets = literal_at.values();
  Prompt prompt{text.text(), {offsets.begin(), offsets.end()}};
  if (options.continue_final_message) cut_at_tag(prompt);
  return prompt;
}

}  // namespace optiq::text
