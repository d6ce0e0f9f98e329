// Whether an answer is right, by the rule that its case names.
#pragma once
#include <span>
#include <string_view>

namespace optiq::eval {

/// One rule.
///   exact        the text, without space around it
///   hash_number  the last number after ####, without commas and a last dot
///   json         the whole text as JSON of equal value
///   tool         the first <tool_call> ... </tool_call> as JSON of equal value
struct Scorer {
  const char* name;
  bool (*is_correct)(std::string_view output, std::string_view answer);
};

std::span<const Scorer> scorers();

/// The scorer of that name, or null.
const Scorer* find_scorer(std::string_view name);

/// Scores what a model wrote; text from its first <|im_end|> or <|endoftext|> on does
/// not count.
bool is_correct(const Scorer& scorer, std::string_view output, std::string_view answer);

}  // namespace optiq::eval
