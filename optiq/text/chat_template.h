// Messages to a prompt, by the Jinja template that comes with a model.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "optiq/text/prompt.h"
#include "optiq/text/tokenizer.h"

struct optiq_template;

namespace optiq::text {

struct ChatOptions {
  /// A list of tools as JSON schemas; null is none.
  nlohmann::ordered_json tools = nullptr;
  /// Ends the prompt where the model's answer begins.
  bool add_generation_prompt = true;
  /// Ends the prompt inside of the last message, which the model goes on writing.
  /// Excludes `add_generation_prompt`, which it switches off.
  bool continue_final_message = false;
  std::optional<bool> enable_thinking;
  /// Further variables for the template, an object.
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  /// The moment that strftime_now tells, in seconds of Unix time; now, if not given.
  std::optional<std::int64_t> now_s;
};

/// The templates are Jinja as transformers runs it: what it renders, this renders, to
/// the byte. They come from strangers, so each run has a budget of steps and bytes.
///
/// Threads   const members may be called from any thread at once; each call runs on a
///           short-lived thread of its own (for its stack).
class ChatTemplate {
 public:
  /// Reads chat_template.jinja, additional_chat_templates/<name>.jinja, or
  /// `chat_template` of chat_template.json or tokenizer_config.json (a text, or a list
  /// of {name, template}), the first of these that is there. None if none is.
  ///
  /// Throws    CheckpointError naming the file and the template's line.
  static std::optional<ChatTemplate> load(const std::filesystem::path& dir,
                                          const Tokenizer& tokenizer);

  /// From the template's text; `file` is what messages call it.
  static ChatTemplate parse(std::string_view source, const Tokenizer& tokenizer,
                            const std::string& file);

  /// Renders a list of messages in the form of OpenAI's API. Text of messages, tools
  /// and variables that spells a control token of the model is marked, so that
  /// `Tokenizer::encode` keeps it text. Control tokens are the special ones, and added
  /// tokens such as <think> that the template names; the latter keep their meaning in
  /// messages of the roles system, developer and assistant.
  ///
  /// Requires  tool calls' arguments as objects, where the template wants objects.
  /// Throws    std::invalid_argument: with the template's own words where it refuses
  ///           the messages (raise_exception); CheckpointError if it does not end.
  Prompt render(const nlohmann::ordered_json& messages,
                const ChatOptions& options = {}) const;

 private:
  struct Source {
    std::shared_ptr<optiq_template> handle;
    std::string file;
  };

  ChatTemplate() = default;
  void add(const std::string& name, std::string_view source, const Tokenizer& tokenizer,
           const std::string& file);
  const Source& choose(const ChatOptions& options) const;

  std::map<std::string, Source> sources_;
  std::string special_tokens_;  // a JSON object
};

}  // namespace optiq::text
