#include <fmt/format.h>

#include <string>
#include <vector>

#include "optiq/eval/tasks/makers.h"
#include "optiq/eval/tasks/question.h"
#include "optiq/eval/tasks/words.h"

namespace optiq::eval {
namespace {

// A question and its worked solution, without the last line.
struct Problem {
  std::string question;
  std::vector<std::string> steps = {};
  int result = 0;

  int add(int a, int b, std::string_view words = "") {
    steps.push_back(fmt::format("{}{} + {} = {}", words, a, b, a + b));
    return a + b;
  }
  int subtract(int a, int b, std::string_view words = "") {
    steps.push_back(fmt::format("{}{} - {} = {}", words, a, b, a - b));
    return a - b;
  }
  // By a number of one digit: the parts of each digit, then their sum.
  int multiply(int a, int b) {
    std::vector<int> parts;
    for (int unit = 1000; unit > 0; unit /= 10)
      if (const int part = a / unit % 10 * unit; part > 0) {
        steps.push_back(fmt::format("{} * {} = {}", part, b, part * b));
        parts.push_back(part * b);
      }
    int sum = parts[0];
    for (std::size_t i = 1; i < parts.size(); ++i) sum = add(sum, parts[i]);
    return sum;
  }
};

// Of two or three digits, as often as the other.
int some_number(Random& random) {
  return random.coin() ? random.between(10, 99) : random.between(100, 999);
}

std::string_view some_things(Random& random) {
  constexpr std::string_view kThings[] = {
      "apples",  "balloons", "books",   "cards",  "coins",    "cookies", "eggs",
      "flowers", "marbles",  "pencils", "shells", "stickers", "tickets"};
  return random.pick(kThings);
}

Problem sum(Random& random) {
  const int a = some_number(random), b = some_number(random);
  constexpr std::string_view kForms[] = {"What is {} + {}?", "Compute {} + {}.",
                                         "Calculate {} plus {}."};
  Problem p{.question = fmt::format(fmt::runtime(random.pick(kForms)), a, b)};
  p.result = p.add(a, b);
  return p;
}

Problem difference(Random& random) {
  const int a = some_number(random), b = random.between(1, a);
  Problem p{.question = fmt::format("What is {} - {}?", a, b)};
  p.result = p.subtract(a, b);
  return p;
}

Problem product(Random& random) {
  const int a = some_number(random), b = random.between(2, 9);
  Problem p{.question = fmt::format("Compute {} * {}.", a, b)};
  p.result = p.multiply(a, b);
  return p;
}

Problem product_and_sum(Random& random) {
  const int a = random.between(10, 99), b = random.between(3, 8),
            c = random.between(10, 99);
  Problem p{.question = fmt::format("Compute {} * {} + {} step by step.", a, b, c)};
  p.result = p.add(p.multiply(a, b), c);
  return p;
}

Problem tickets(Random& random) {
  const int price = random.between(10, 60), n = random.between(3, 8),
            drink = random.between(10, 80);
  const std::string_view who = random.pick(first_names());
  Problem p{.question = fmt::format(
                "A ticket costs {} dollars. {} buys {} tickets and a drink for {} "
                "dollars. How many dollars does {} pay?",
                price, who, n, drink, who)};
  p.result = p.add(p.multiply(price, n), drink);
  return p;
}

Problem three_days(Random& random) {
  const int a = some_number(random), b = some_number(random), c = some_number(random);
  const std::string_view things = some_things(random);
  Problem p{.question =
                fmt::format("A shop sold {} {} on Friday, {} on Saturday and {} "
                            "on Sunday. How many {} did it sell altogether?",
                            a, things, b, c, things)};
  p.result = p.add(p.add(a, b), c);
  return p;
}

// First more, then less.
Problem gain_and_loss(Random& random) {
  const int a = some_number(random), b = some_number(random),
            c = random.between(10, a + b);
  constexpr std::string_view kForms[] = {
      "{0} collected {2} {1} on Monday and {3} {1} on Tuesday, then sold {4} {1}. How "
      "many {1} are left?",
      "There are {2} {1} in a box. {0} adds {3} {1} and {5} takes {4} {1} away. How "
      "many {1} are in the box?",
      "{0} has {2} {1}. {5} gives {0} {3} more {1}. Then {0} loses {4} of them. How "
      "many {1} does {0} have now?"};
  const std::string_view who = random.pick(first_names());
  std::string_view other = who;
  while (other == who) other = random.pick(first_names());
  Problem p{.question = fmt::format(fmt::runtime(random.pick(kForms)), who,
                                    some_things(random), a, b, c, other)};
  p.result = p.subtract(p.add(a, b, "First add: "), c, "Then subtract: ");
  return p;
}

constexpr Problem (*kProblems[])(Random&) = {
    sum, difference, product, product_and_sum, tickets, three_days, gain_and_loss};

}  // namespace

Case make_arithmetic(Random& random, const CaseWish& wish) {
  const Problem p =
      kProblems[static_cast<std::size_t>(wish.index) % std::size(kProblems)](random);
  return case_of(
      {.system = "You are a helpful assistant. Work step by step and end with #### and "
                 "the number.",
       .user = p.question,
       .target = fmt::format("{}\n#### {}", fmt::join(p.steps, "\n"), p.result),
       .answer = std::to_string(p.result),
       .scorer = "hash_number",
       .max_new_tokens = 120});
}

}  // namespace optiq::eval
