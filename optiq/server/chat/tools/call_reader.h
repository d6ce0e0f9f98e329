// Reads one group of tool calls behind the mark that opens it, character by character.
#pragma once
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "optiq/server/chat/answer_event.h"

namespace optiq::server {

/// The declared tools by name, with the schemas of their arguments.
using DeclaredTools = std::map<std::string, nlohmann::ordered_json>;

/// What a reader makes of the text is given at once, as far as it is certain. Once a
/// call has begun it ends as a call, with arguments that are one JSON object, whatever
/// comes.
class CallReader {
 public:
  /// kDone: the character belonged to the calls and they are over. kNotTaken: they were
  /// over before it. kFailed: this is no call (nothing has begun), or a broken one.
  enum class Status { kMore, kDone, kNotTaken, kFailed };

  virtual ~CallReader() = default;
  virtual Status feed(char c, std::vector<AnswerEvent>& events) = 0;

  /// The text ends here. kDone or kFailed.
  virtual Status end(std::vector<AnswerEvent>& events) = 0;

  /// True once a call has been told.
  virtual bool begun() const = 0;
};

/// {"name": ..., "arguments": {...}} (or "parameters"), the keys in any order.
/// `declared`, if given, refuses other names.
std::unique_ptr<CallReader> json_call(const DeclaredTools* declared = nullptr);

/// <function=NAME> <parameter=KEY> VALUE </parameter> ... </function>, from behind
/// "<function=". Values are typed by the tool's schema.
std::unique_ptr<CallReader> xml_call(const DeclaredTools& tools, bool declared_only);

/// What follows <tool_call>: one of the two above, up to </tool_call>.
std::unique_ptr<CallReader> tagged_call(const DeclaredTools& tools);

/// Behind [TOOL_CALLS]: a JSON list of calls, or NAME[ARGS]{...}.
std::unique_ptr<CallReader> mistral_calls(const DeclaredTools& tools);

/// "call_" and 24 letters and digits.
std::string new_call_id();

}  // namespace optiq::server
