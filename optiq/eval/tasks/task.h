// The tasks that make their own cases: one row each.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "optiq/eval/case.h"
#include "optiq/eval/tasks/random.h"

namespace optiq::eval {

/// Tokens of a case's prompt and target together, by the model's tokenizer.
using TokenCount = std::function<int(const Case&)>;

constexpr int kMostDistractors = 7;

/// Which case of a task is wanted.
struct CaseWish {
  int index = 0;          // counts from 0; tasks of several kinds take turns by it
  int length = 0;         // tokens of prompt and target; 0: the task has no length
  TokenCount count = {};  // set where the task has a length
  int distractors = 3;    // needle: keys like the asked one, at most kMostDistractors
};

struct Task {
  const char* name;
  const char* what;
  Case (*make)(Random& random, const CaseWish& wish);  // null: cases come from a file
  int default_length = 0;                              // 0: the task has no length
};

std::span<const Task> tasks();

/// The task of that name, or null.
const Task* find_task(std::string_view name);

struct MakeOptions {
  std::uint64_t seed = 0;
  int count = 20;                 // of each length
  std::vector<int> lengths = {};  // none: the task's default, if it has a length
  int distractors = CaseWish{}.distractors;
};

/// Cases that depend on the task, the seed, the length and their index alone, and on
/// the tokenizer where there is a length: case i is the same whatever the others are.
/// With a length, prompt and target are at most so many tokens, and less than
/// kLengthSlack below it.
///
/// Requires  task.make; no lengths where the task has none; distractors from 0 to
///           kMostDistractors
/// Throws    std::invalid_argument if not even the smallest case is that short.
std::vector<Case> make_cases(const Task& task, const MakeOptions& options,
                             const TokenCount& count);

constexpr int kLengthSlack = 32;

}  // namespace optiq::eval
