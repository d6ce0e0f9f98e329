#include <fmt/format.h>

#include <string>
#include <vector>

#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {

Case make_recall(Random& random, const CaseWish&) {
  std::vector<std::string_view> keys(nouns().begin(), nouns().end());
  random.shuffle(keys);
  keys.resize(static_cast<std::size_t>(random.between(8, 48)));
  std::string table;
  std::vector<std::string> values;
  for (const std::string_view key : keys) {
    values.push_back(std::to_string(random.between(10, 99)));
    table += fmt::format("{}: {}\n", key, values.back());
  }
  const auto asked =
      static_cast<std::size_t>(random.below(static_cast<int>(keys.size())));
  return case_of(
      {.system = "You are a helpful assistant. Answer with the value only.",
       .user = fmt::format("Table:\n{}\nWhat is the value of {}?", table, keys[asked]),
       .target = values[asked],
       .answer = values[asked],
       .max_new_tokens = 12});
}

}  // namespace optiq::eval
