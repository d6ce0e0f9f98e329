// The text of an answer as its tokens come.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "optiq/generate/stop_strings.h"
#include "optiq/text/stream_decoder.h"
#include "optiq/text/tokenizer.h"

namespace optiq::generation {

/// Decodes tokens and looks for stop strings. Without a tokenizer there is no text.
///
/// Threads   one.
class AnswerText {
 public:
  AnswerText(const text::Tokenizer* tokenizer, std::vector<std::string> stop_strings);

  /// The text that this token settles. An id that names no token (a model may have
  /// more logits than its tokenizer has tokens) adds none.
  std::string push(int id);

  /// What was held back.
  std::string finish();

  bool stopped() const { return stops_.found(); }

  /// The stop string that was found.
  const std::string& stop_string() const { return stops_.match(); }
  const std::string& text() const { return text_; }

 private:
  std::string shown(const std::string& piece);

  const text::Tokenizer* tokenizer_;
  std::optional<text::StreamDecoder> decoder_;
  StopStrings stops_;
  std::string text_;
};

}  // namespace optiq::generation
