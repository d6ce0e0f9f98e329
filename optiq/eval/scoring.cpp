#include "optiq/eval/scoring.h"

#include <nlohmann/json.hpp>
#include <string>

namespace optiq::eval {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

std::string_view strip(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

bool exact(std::string_view output, std::string_view answer) {
  return strip(output) == strip(answer);
}

bool is_number_character(char c) {
  return (c >= '0' && c <= '9') || c == ',' || c == '.';
}

// The last match of  ####\s*(-?[\d,\.]+)  without commas and dots at its end.
std::string last_hash_number(std::string_view text) {
  constexpr std::string_view kMark = "####";
  std::string number;
  for (std::size_t at = 0; (at = text.find(kMark, at)) != std::string_view::npos;) {
    std::size_t i = text.find_first_not_of(kSpace, at + kMark.size());
    ++at;  // "#####" holds the mark twice; only the second one is followed by space
    if (i == std::string_view::npos) break;
    std::string found;
    if (text[i] == '-') found += text[i++];
    const std::size_t digits = i;
    for (; i < text.size() && is_number_character(text[i]); ++i)
      if (text[i] != ',') found += text[i];
    if (i == digits) continue;
    while (!found.empty() && found.back() == '.') found.pop_back();
    number = found;
    at = i;
  }
  return number;
}

bool hash_number(std::string_view output, std::string_view answer) {
  const std::string number = last_hash_number(output);
  return !number.empty() && number == answer;
}

bool same_json(std::string_view a, std::string_view b) {
  const auto left = nlohmann::json::parse(a, nullptr, /*allow_exceptions=*/false);
  const auto right = nlohmann::json::parse(b, nullptr, false);
  return !left.is_discarded() && !right.is_discarded() && left == right;
}

bool tool(std::string_view output, std::string_view answer) {
  constexpr std::string_view kBegin = "<tool_call>", kEnd = "</tool_call>";
  const std::size_t begin = output.find(kBegin);
  if (begin == std::string_view::npos) return false;
  const std::size_t end = output.find(kEnd, begin + kBegin.size());
  if (end == std::string_view::npos) return false;
  const std::size_t first = begin + kBegin.size();
  return same_json(strip(output.substr(first, end - first)), answer);
}

constexpr Scorer kScorers[] = {{"exact", exact},
                               {"hash_number", hash_number},
                               {"json", same_json},
                               {"tool", tool}};

}  // namespace

std::span<const Scorer> scorers() { return kScorers; }

const Scorer* find_scorer(std::string_view name) {
  for (const Scorer& scorer : kScorers)
    if (name == scorer.name) return &scorer;
  return nullptr;
}

bool is_correct(const Scorer& scorer, std::string_view output,
                std::string_view answer) {
  output = output.substr(0, output.find("<|im_end|>"));
  output = output.substr(0, output.find("<|endoftext|>"));
  return scorer.is_correct(output, answer);
}

}  // namespace optiq::eval
