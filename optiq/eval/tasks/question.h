// From what a task asks to a case that any model can be asked.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "optiq/eval/case.h"

namespace optiq::eval {

struct Question {
  std::string system = {};  // empty: none
  std::string user = {};
  nlohmann::ordered_json tools = {};  // null: none
  std::string target = {};            // what the model should write
  std::string answer = {};            // what the scorer compares with
  const char* scorer = "exact";
  int max_new_tokens = 0;
};

/// The case with `messages` and, for models without a chat template, a `prompt` of
/// plain text that says the same.
Case case_of(const Question& question);

/// JSON as models mostly write it: one line, a space after each comma and colon.
std::string spaced_json(const nlohmann::ordered_json& value);

}  // namespace optiq::eval
