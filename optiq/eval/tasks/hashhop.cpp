#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "optiq/eval/tasks/fit.h"
#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {
namespace {

constexpr int kMaxHops = 4;
constexpr int kChain = 6;  // arrows; the question starts anywhere that leaves its hops

// Different keys, each a noun and a number: as many as `length` tokens can need, an
// arrow being at least four. Nouns come back with other numbers, so that keys begin
// alike. The keys of more arrows begin with those of fewer.
std::vector<std::string> keys_of(Random& random, int length) {
  std::vector<std::string_view> words(nouns().begin(), nouns().end());
  random.shuffle(words);
  const int n = length / 3 + 16;
  const int n_words = std::clamp(length / 16, 8, static_cast<int>(words.size()));
  const int n_numbers = std::max(9, (n + n_words - 1) / n_words);
  std::vector<std::string> keys;
  for (int i = 0; i < n_words * n_numbers; ++i)
    keys.push_back(fmt::format("{}{}", words[static_cast<std::size_t>(i % n_words)],
                               1 + i / n_words));
  random.shuffle(keys);
  return keys;
}

// `n` arrows in chains of kChain, the last one shorter, none of which meet.
Case chains(Random random, const std::vector<std::string>& keys, int n, int hops) {
  std::vector<std::string> arrows;
  for (int i = 0; i < n; ++i) {
    const auto from = static_cast<std::size_t>(i + i / kChain);
    arrows.push_back(fmt::format("{} -> {}", keys[from], keys[from + 1]));
  }
  const auto start = static_cast<std::size_t>(random.between(0, kChain - hops));
  std::string answer = keys[start];
  for (int i = 1; i <= hops; ++i)
    answer += " -> " + keys[start + static_cast<std::size_t>(i)];
  random.shuffle(arrows);
  Case c = case_of(
      {.system = "You are a helpful assistant. Write chains as a -> b -> c and nothing "
                 "else.",
       .user = fmt::format("Here is a map from keys to values:\n{}\n\nStart at {} and "
                           "follow {} hop{}. Write the chain.",
                           fmt::join(arrows, "\n"), keys[start], hops,
                           hops == 1 ? "" : "s"),
       .target = answer,
       .answer = answer,
       .max_new_tokens = 60});
  c.hops = hops;
  return c;
}

}  // namespace

Case make_hashhop(Random& random, const CaseWish& wish) {
  const int hops = 1 + wish.index % kMaxHops;
  const auto keys = keys_of(random, wish.length);
  return fit(wish, kChain, [&](int n) { return chains(random, keys, n, hops); });
}

}  // namespace optiq::eval
