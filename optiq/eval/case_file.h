// Fixed questions with known answers, one JSON object a line.
#pragma once
#include <filesystem>
#include <vector>

#include "optiq/eval/case.h"

namespace optiq::eval {

/// Reads cases: `answer`, `scorer`, `max_new_tokens` and `messages` or `prompt`, and
/// optionally `id`, `target` (else the answer), `tools`, `enable_thinking`.
///
/// Throws    CheckpointError naming file and line.
std::vector<Case> read_cases(const std::filesystem::path& file);

}  // namespace optiq::eval
