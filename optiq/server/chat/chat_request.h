// What a chat request means, whichever API it came through.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "optiq/kernels/sampling/sampling.h"
#include "optiq/models/adapter.h"

namespace optiq::server {

using Json = nlohmann::ordered_json;

/// May the model call tools, must it, and which?
struct ToolChoice {
  enum class Kind { kAuto, kNone, kRequired, kNamed };
  Kind kind = Kind::kAuto;
  std::string name;      // kNamed
  bool parallel = true;  // several calls in one answer
};

/// A form that the text of the answer must have.
struct AnswerFormat {
  enum class Kind { kText, kJsonObject, kJsonSchema, kRegex, kChoice, kGrammar };
  Kind kind = Kind::kText;
  Json schema;                       // kJsonSchema
  bool strict = false;               // what cannot be enforced is an error, not relaxed
  std::string pattern;               // kRegex; kGrammar: in Lark
  std::vector<std::string> choices;  // kChoice
};

struct Thinking {
  std::optional<bool> enabled;  // none: as the template does by itself
  std::optional<int> budget;    // tokens of reasoning; then it is closed
  std::string effort;           // "low", "high"...: given to the template; empty: none
  bool shown = true;            // false: reasoning is made but not told
};

struct ChatRequest {
  /// In the form of OpenAI's chat API, with plain text: {role, content, tool_calls,
  /// tool_call_id, reasoning_content}; content a string or null; tool calls' arguments
  /// objects. Roles system, user, assistant, tool; a system message may stand anywhere.
  Json messages = Json::array();
  Json tools = Json::array();  // {"type": "function", "function": {name, description,
                               // parameters}}
  ToolChoice tool_choice;
  AnswerFormat format;
  Thinking thinking;
  bool continue_final_message = false;  // the last message, an assistant's, goes on
  Json template_variables = Json::object();

  int n = 1;  // answers
  std::optional<int> max_tokens;
  kernels::SamplingOptions sampling;  // with the server's defaults filled in
  std::optional<std::uint64_t> seed;  // none: a random one
  std::vector<std::string> stop_strings;
  std::vector<int> stop_ids;
  bool ignore_eos = false;
  int log_probs = -1;  // as EngineRequest
  std::string cache_salt;
  models::AdapterPtr adapter;  // null: the base answers
};

}  // namespace optiq::server
