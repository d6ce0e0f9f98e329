#include "optiq/server/chat/answer_parser.h"

#include <algorithm>
#include <utility>

namespace optiq::server {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Adds to the last event where it is of the same kind.
template <class Piece>
void add(std::string text, std::vector<AnswerEvent>& events) {
  if (text.empty()) return;
  if (!events.empty())
    if (auto* last = std::get_if<Piece>(&events.back())) {
      last->text += text;
      return;
    }
  events.push_back(Piece{std::move(text)});
}

}  // namespace

AnswerParser::AnswerParser(ParserOptions options) : options_(std::move(options)) {
  if (options_.begins_in_reasoning) where_ = Where::kReasoning;
}

AnswerParser::~AnswerParser() = default;

std::vector<AnswerEvent> AnswerParser::feed(std::string_view piece) {
  Events events;
  for (const char c : piece) take(c, events);
  return events;
}

void AnswerParser::take(char c, Events& events) {
  switch (where_) {
    case Where::kStart:
      return take_start(c, events);
    case Where::kReasoning:
      return take_reasoning(c, events);
    case Where::kText:
      return take_text(c, events);
    case Where::kCall:
      return take_call(c, events);
  }
}

// Nothing but white space has come.
void AnswerParser::take_start(char c, Events& events) {
  if (held_.empty() && is_space(c)) {
    space_ += c;
    return;
  }
  held_ += c;
  if (held_ == kThink) {
    held_.clear();
    space_.clear();
    where_ = Where::kReasoning;
  } else if (!kThink.starts_with(held_)) {
    where_ = Where::kText;
    if (after_reasoning_) space_.clear();
    for (const char again : std::exchange(held_, {})) take(again, events);
  }
}

void AnswerParser::take_reasoning(char c, Events& events) {
  held_ += c;
  if (held_ == kEndThink) {
    held_.clear();
    space_.clear();
    where_ = Where::kStart;
    after_reasoning_ = true;
    any_text_ = false;
    return;
  }
  // A model may open again what its prompt has opened.
  if (!any_text_ && held_ == kThink) held_.clear();
  // The longest end of what is held that may begin a tag.
  std::size_t from = 0;
  for (; from < held_.size(); ++from) {
    const std::string_view rest = std::string_view(held_).substr(from);
    if (kEndThink.starts_with(rest) || (!any_text_ && kThink.starts_with(rest))) break;
  }
  const std::string piece = held_.substr(0, from);
  held_.erase(0, from);
  reasoning(piece, events);
}

void AnswerParser::reasoning(std::string_view piece, Events& events) {
  for (const char c : piece) {
    if (is_space(c)) {
      space_ += c;
      continue;
    }
    // The white space right behind <think> belongs to the tag.
    if (any_text_) add<ReasoningPiece>(space_, events);
    space_.clear();
    any_text_ = true;
    add<ReasoningPiece>(std::string(1, c), events);
  }
}

bool AnswerParser::may_open(const CallMark& mark) const {
  if (in_fence_) return false;
  if (mark.line_start && !line_.empty()) return false;
  return !mark.answer_start || (line_.empty() && !any_text_ && calls_ == 0);
}

// The mark that what is held ends in, from its first character.
const CallMark* AnswerParser::mark_at_end() const {
  if (!options_.format) return nullptr;
  for (const CallMark& mark : options_.format->marks)
    if (held_ == mark.text) return &mark;
  return nullptr;
}

// Where the longest possible beginning of a mark stands in what is held.
std::size_t AnswerParser::held_from() const {
  if (!options_.format) return held_.size();
  for (std::size_t from = 0; from < held_.size(); ++from)
    for (const CallMark& mark : options_.format->marks)
      if (mark.text.starts_with(std::string_view(held_).substr(from))) return from;
  return held_.size();
}

void AnswerParser::take_text(char c, Events& events) {
  held_ += c;
  const std::size_t from = held_from();
  const std::string piece = held_.substr(0, from);
  held_.erase(0, from);
  text(piece, events);
  const CallMark* mark = mark_at_end();
  if (!mark) return;
  if (may_open(*mark)) {
    open_call(*mark, events);
  } else {
    text(std::exchange(held_, {}), events);
  }
}

void AnswerParser::text(std::string_view piece, Events& events) {
  for (const char c : piece) {
    if (is_space(c)) {
      space_ += c;
    } else {
      add<TextPiece>(std::exchange(space_, {}) + c, events);
      any_text_ = true;
    }
    if (c == '\n') {
      line_.clear();
    } else if (line_.size() < 4) {
      line_ += c;
      if (line_ == "```") in_fence_ = !in_fence_;
    }
  }
}

bool AnswerParser::open_call(const CallMark& mark, Events& events) {
  reader_ = mark.reader(options_.tools);
  raw_.clear();
  where_ = Where::kCall;
  const std::string opening = std::exchange(held_, {});
  if (mark.part_of_call)
    for (const char c : opening) take_call(c, events);
  else
    raw_ = opening;
  return true;
}

void AnswerParser::count_calls(const Events& events, std::size_t from) {
  for (std::size_t i = from; i < events.size(); ++i)
    if (std::holds_alternative<ToolCallBegin>(events[i])) {
      ++calls_;
      space_.clear();
    }
}

void AnswerParser::take_call(char c, Events& events) {
  raw_ += c;
  const std::size_t before = events.size();
  const CallReader::Status status = reader_->feed(c, events);
  count_calls(events, before);
  if (status == CallReader::Status::kMore) return;
  end_call(status, events);
  if (status == CallReader::Status::kNotTaken) take(c, events);
}

void AnswerParser::end_call(CallReader::Status status, Events& events) {
  const bool begun = reader_->begun();
  reader_.reset();
  where_ = Where::kText;
  line_.clear();
  if (status != CallReader::Status::kFailed) return;
  ++failures_;
  // What was no call is text after all.
  if (!begun) text(std::exchange(raw_, {}), events);
}

std::vector<AnswerEvent> AnswerParser::finish() {
  Events events;
  if (where_ == Where::kCall) {
    const CallReader::Status status = reader_->end(events);
    count_calls(events, 0);
    end_call(status, events);
  }
  const std::string rest = std::exchange(held_, {});
  if (where_ == Where::kReasoning)
    reasoning(rest, events);
  else
    text(rest, events);
  // White space at the end is the answer's own, unless it only frames reasoning or
  // calls.
  if (where_ == Where::kText && calls_ == 0 && any_text_)
    add<TextPiece>(std::exchange(space_, {}), events);
  return events;
}

}  // namespace optiq::server
