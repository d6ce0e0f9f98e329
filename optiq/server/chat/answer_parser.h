// The text of an answer, taken apart as it comes: reasoning, text, tool calls.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/server/chat/answer_event.h"
#include "optiq/server/chat/tools/tool_format.h"

namespace optiq::server {

struct ParserOptions {
  bool begins_in_reasoning = false;    // the prompt ends behind <think>
  const ToolFormat* format = nullptr;  // null: nothing is a call
  DeclaredTools tools;
};

/// However the text is cut into pieces, the events put together are the same. What may
/// still become a mark is held back. Marks inside of fenced code are text, and so is
/// what only looks like a call.
///
/// Threads   one.
class AnswerParser {
 public:
  explicit AnswerParser(ParserOptions options);
  ~AnswerParser();

  std::vector<AnswerEvent> feed(std::string_view piece);

  /// The answer ends here.
  std::vector<AnswerEvent> finish();

  bool in_reasoning() const { return where_ == Where::kReasoning; }
  int calls() const { return calls_; }

  /// Calls that broke off and were completed, and openings that led to none.
  int failures() const { return failures_; }

 private:
  enum class Where { kStart, kReasoning, kText, kCall };
  using Events = std::vector<AnswerEvent>;

  void take(char c, Events& events);
  void take_start(char c, Events& events);
  void take_reasoning(char c, Events& events);
  void take_text(char c, Events& events);
  void take_call(char c, Events& events);
  bool open_call(const CallMark& mark, Events& events);
  void end_call(CallReader::Status status, Events& events);
  void text(std::string_view piece, Events& events);
  void reasoning(std::string_view piece, Events& events);
  void count_calls(const Events& events, std::size_t from);
  const CallMark* mark_at_end() const;
  std::size_t held_from() const;
  bool may_open(const CallMark& mark) const;

  ParserOptions options_;
  Where where_ = Where::kStart;
  std::string held_;   // may be the beginning of a mark
  std::string space_;  // white space that is told only if more follows
  std::string raw_;    // what the call's reader has taken
  std::unique_ptr<CallReader> reader_;
  std::string line_;  // the beginning of the line that text is in
  bool in_fence_ = false;
  bool any_text_ = false;
  bool after_reasoning_ = false;
  int calls_ = 0;
  int failures_ = 0;
};

}  // namespace optiq::server
