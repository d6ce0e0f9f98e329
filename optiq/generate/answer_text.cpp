#include "optiq/generate/answer_text.h"

#include <stdexcept>
#include <utility>

namespace optiq::generation {

AnswerText::AnswerText(const text::Tokenizer* tokenizer,
                       std::vector<std::string> stop_strings)
    : tokenizer_(tokenizer), stops_(std::move(stop_strings)) {
  if (tokenizer_) decoder_.emplace(*tokenizer_);
}

std::string AnswerText::shown(const std::string& piece) {
  std::string visible = stops_.feed(piece);
  text_ += visible;
  return visible;
}

std::string AnswerText::push(int id) {
  if (!decoder_) return "";
  try {
    return shown(decoder_->push(id));
  } catch (const std::invalid_argument&) {
    return "";
  }
}

std::string AnswerText::finish() {
  if (!decoder_) return "";
  std::string rest = shown(decoder_->finish());
  const std::string held = stops_.finish();
  text_ += held;
  return rest + held;
}

}  // namespace optiq::generation
