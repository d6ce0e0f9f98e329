#include "optiq/eval/tasks/filler.h"

#include <algorithm>
#include <string_view>

#include "optiq/eval/heldout.h"

namespace optiq::eval {
namespace {

constexpr std::string_view kBreak = "\n\n";
constexpr std::string_view kSpace = " \n";

std::vector<std::size_t> paragraphs(std::string_view text) {
  std::vector<std::size_t> begins = {0};
  for (std::size_t at = 0; (at = text.find(kBreak, at)) != std::string_view::npos;) {
    at = text.find_first_not_of('\n', at);
    if (at == std::string_view::npos) break;
    begins.push_back(at);
  }
  return begins;
}

// Where sentences end: after a full stop and four small letters, which no "Mrs." has.
std::vector<std::size_t> sentence_ends(std::string_view text) {
  std::vector<std::size_t> ends = {0};
  int small = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '.' && small >= 4 &&
        (i + 1 == text.size() || kSpace.find(text[i + 1]) != std::string_view::npos))
      ends.push_back(i + 1);
    small = text[i] >= 'a' && text[i] <= 'z' ? small + 1 : 0;
  }
  if (ends.back() != text.size()) ends.push_back(text.size());
  return ends;
}

std::size_t nearest(const std::vector<std::size_t>& places, std::size_t to) {
  const auto after = std::ranges::lower_bound(places, to);
  if (after == places.begin()) return *after;
  if (after == places.end()) return places.back();
  return *after - to < to - *(after - 1) ? *after : *(after - 1);
}

void append_paragraph(std::string& text, std::string_view paragraph) {
  const std::size_t begin = paragraph.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return;
  const std::size_t end = paragraph.find_last_not_of(kSpace);
  if (!text.empty()) text += kBreak;
  text += paragraph.substr(begin, end - begin + 1);
}

}  // namespace

Filler::Filler(Random& random) {
  const auto begins = paragraphs(heldout_text());
  begin_ = random.pick(begins);
}

std::string Filler::words(int n) const {
  const std::string_view source = heldout_text();
  std::string text;
  std::size_t at = begin_;
  while (n > 0) {
    const std::size_t from = source.find_first_not_of(kSpace, at);
    if (from == std::string_view::npos) {  // around
      at = 0;
      continue;
    }
    const std::size_t end = std::min(source.find_first_of(kSpace, from), source.size());
    if (!text.empty())
      text += from < 2 || source.substr(from - 2, 2) == kBreak ? kBreak : " ";
    text += source.substr(from, end - from);
    at = end;
    --n;
  }
  return text;
}

std::string insert(const std::string& text, std::vector<Insertion> lines) {
  std::ranges::stable_sort(lines, {}, &Insertion::permille);
  const auto places = sentence_ends(text);
  std::string result;
  std::size_t done = 0;
  for (const Insertion& line : lines) {
    const std::size_t place = std::max(
        done,
        nearest(places, text.size() * static_cast<std::size_t>(line.permille) / 1000));
    append_paragraph(result, std::string_view(text).substr(done, place - done));
    append_paragraph(result, line.line);
    done = place;
  }
  append_paragraph(result, std::string_view(text).substr(done));
  return result;
}

}  // namespace optiq::eval
