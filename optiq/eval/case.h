// A question with a known answer.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "optiq/eval/scoring.h"

namespace optiq::eval {

struct Case {
  std::string id;
  nlohmann::ordered_json messages;      // null: use `prompt` as it is
  nlohmann::ordered_json tools;         // null: none
  std::optional<bool> enable_thinking;  // none: as the template does it
  std::string prompt;
  std::string target;  // what the model should write, worked solution and all
  std::string answer;
  const Scorer* scorer = nullptr;
  int max_new_tokens = 0;
  int length = 0;  // tokens that were asked of prompt and target; 0: not asked
  int hops = 0;    // steps from question to answer; 0: not a chain
};

}  // namespace optiq::eval
