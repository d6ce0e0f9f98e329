#include "optiq/eval/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>

#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/eval/tasks/makers.h"

namespace optiq::eval {
namespace {

constexpr Task kTasks[] = {
    {"needle", "finds the one number that is asked for among like ones in prose",
     make_needle, 2048},
    {"hashhop", "follows 1 to 4 arrows through a shuffled map", make_hashhop, 256},
    {"recall", "looks a key up in a table", make_recall},
    {"copy", "repeats a list of words", make_copy},
    {"arithmetic", "sums and products in a few steps, some as stories",
     make_arithmetic},
    {"json", "writes what a text says as a JSON object", make_json},
    {"tools", "calls the right tool with the right arguments", make_tools},
    {"gsm8k", "school mathematics; --data has the cases", nullptr},
};

}  // namespace

std::span<const Task> tasks() { return kTasks; }

const Task* find_task(std::string_view name) {
  const auto* task = std::ranges::find(kTasks, name, &Task::name);
  return task == std::end(kTasks) ? nullptr : task;
}

std::vector<Case> make_cases(const Task& task, const MakeOptions& options,
                             const TokenCount& count) {
  OPTIQ_CHECK(task.make, task.name);
  std::vector<int> lengths = options.lengths;
  OPTIQ_CHECK(lengths.empty() || task.default_length > 0, task.name);
  if (lengths.empty()) lengths = {task.default_length};
  std::vector<Case> cases;
  for (const int length : lengths)
    for (int i = 0; i < options.count; ++i) {
      throw_if_interrupted();
      Random random(task.name, options.seed, length, i);
      Case c = task.make(random, {.index = i,
                                  .length = length,
                                  .count = count,
                                  .distractors = options.distractors});
      c.id = length > 0 ? fmt::format("{}-{}-{:03}", task.name, length, i)
                        : fmt::format("{}-{:03}", task.name, i);
      c.length = length;
      cases.push_back(std::move(c));
    }
  return cases;
}

}  // namespace optiq::eval
