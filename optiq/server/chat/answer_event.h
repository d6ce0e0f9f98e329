// What comes of an answer, piece by piece, whichever API tells it.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include "optiq/generate/engine/engine.h"

namespace optiq::server {

struct ReasoningPiece {
  std::string text;
};
struct TextPiece {
  std::string text;
};
struct ToolCallBegin {
  std::string id;  // "call_" and 24 characters, unique
  std::string name;
};
/// Pieces of a call's arguments: put together, one JSON object.
struct ToolCallArguments {
  std::string json;
};
struct ToolCallEnd {};

/// Begin, arguments and end of a call come in this order, and nothing between them.
using AnswerEvent = std::variant<ReasoningPiece, TextPiece, ToolCallBegin,
                                 ToolCallArguments, ToolCallEnd>;

/// One token as the model gave it, for log-probabilities.
struct TokenRecord {
  int id;
  std::string bytes;
  float log_prob;
  struct Alternative {
    int id;
    std::string bytes;
    float log_prob;
  };
  std::vector<Alternative> likeliest;
};

struct AnswerUse {
  int prompt_tokens = 0;
  int cached_tokens = 0;
  int completion_tokens = 0;
  int reasoning_tokens = 0;
};

struct AnswerEnd {
  enum class Reason {
    kEnd,
    kToolCalls,
    kStopString,
    kLength,
    kContextFull,
    kCancelled,
    kFailed
  };
  Reason reason = Reason::kEnd;
  std::string stop_string;
  std::string error;       // kFailed
  bool may_retry = false;  // kFailed: for want of room
  AnswerUse use;
};

/// Hears the answers to one request. Calls come one at a time, from any thread;
/// `choice` counts the answers from 0. Each choice has one `ended`, its last call.
class AnswerListener {
 public:
  virtual ~AnswerListener() = default;

  virtual void started(int choice, int cached_tokens) {}
  virtual void event(int choice, AnswerEvent event) = 0;
  /// Before the events of this token, where log-probabilities were asked for.
  virtual void token(int choice, TokenRecord token) {}
  virtual void ended(int choice, AnswerEnd end) = 0;
};

}  // namespace optiq::server
