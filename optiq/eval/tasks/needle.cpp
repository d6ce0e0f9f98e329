#include <fmt/format.h>

#include <set>
#include <string>
#include <vector>

#include "optiq/eval/tasks/filler.h"
#include "optiq/eval/tasks/fit.h"
#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {
namespace {

constexpr std::string_view kKinds[] = {"passcode",      "secret code", "magic number",
                                       "ticket number", "access code", "locker number"};
constexpr std::string_view kStatements[] = {"The {} is {}.", "Note that the {} is {}.",
                                            "Remember this: the {} is {}."};
constexpr std::string_view kQuestions[] = {"What is the {}?", "Find the {}.",
                                           "Tell me the {}."};

std::string key_of(std::string_view kind, std::string_view name) {
  return fmt::format("{} for {}", kind, name);
}

// The asked key and others as like it as they come, in turns: the same kind of number
// for a noun that begins with the same letter, and another kind for the same noun.
std::vector<std::string> keys_of(Random& random, int distractors) {
  constexpr std::size_t kLike = (kMostDistractors + 1) / 2;
  std::vector<std::string_view> kinds(std::begin(kKinds), std::end(kKinds));
  random.shuffle(kinds);
  std::string_view name;
  std::vector<std::string_view> like;
  while (like.size() < kLike) {
    name = random.pick(nouns());
    like.clear();
    for (const std::string_view other : nouns())
      if (other != name && other[0] == name[0]) like.push_back(other);
  }
  random.shuffle(like);
  std::vector<std::string> keys = {key_of(kinds[0], name)};
  for (std::size_t i = 0; i < static_cast<std::size_t>(distractors); ++i)
    keys.push_back(i % 2 == 0 ? key_of(kinds[0], like[i / 2])
                              : key_of(kinds[i / 2 + 1], name));
  return keys;
}

// Prose has no numbers of so many digits, so each stands once in the text.
std::vector<std::string> values_of(Random& random, std::size_t n) {
  std::set<std::string> seen;
  std::vector<std::string> values;
  while (values.size() < n) {
    int number = random.between(1, 9);
    for (int digits = random.between(5, 7); digits > 1; --digits)
      number = 10 * number + random.below(10);
    std::string value = std::to_string(number);
    if (seen.insert(value).second) values.push_back(std::move(value));
  }
  return values;
}

}  // namespace

Case make_needle(Random& random, const CaseWish& wish) {
  const auto keys = keys_of(random, wish.distractors);
  const auto values = values_of(random, keys.size());
  std::vector<Insertion> lines;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    // Multiples of the golden ratio fall evenly, however many cases there are.
    const int permille =
        i == 0 ? (191 + 618 * (wish.index % 1000)) % 1000 : random.below(1000);
    lines.push_back({permille, fmt::format(fmt::runtime(random.pick(kStatements)),
                                           keys[i], values[i])});
  }
  random.shuffle(lines);
  const std::string ask = fmt::format(fmt::runtime(random.pick(kQuestions)), keys[0]);
  const Filler filler(random);
  return fit(wish, 0, [&](int words) {
    return case_of(
        {.user = fmt::format("Read the text below and remember the details hidden in "
                             "it.\n\n{}\n\nQuestion: {} Answer with the number only.",
                             insert(filler.words(words), lines), ask),
         .target = values[0],
         .answer = values[0],
         .max_new_tokens = 12});
  });
}

}  // namespace optiq::eval
