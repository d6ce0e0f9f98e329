#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {

Case make_copy(Random& random, const CaseWish&) {
  const std::string words = some_nouns(random, random.between(12, 24));
  return case_of(
      {.system = "You are a helpful assistant. Write the text only.",
       .user = (random.coin() ? "Copy this text: " : "Echo the following: ") + words,
       .target = words,
       .answer = words,
       .max_new_tokens = 160});
}

}  // namespace optiq::eval
