// Fixed questions with known answers, one JSON object a line.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

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
};

/// Reads cases: `answer`, `scorer`, `max_new_tokens` and `messages` or `prompt`, and
/// optionally `id`, `target` (else the answer), `tools`, `enable_thinking`.
///
/// Throws    CheckpointError naming file and line.
std::vector<Case> read_cases(const std::filesystem::path& file);

}  // namespace optiq::eval
