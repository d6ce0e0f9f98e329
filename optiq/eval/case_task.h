// Asks a model fixed questions and counts right answers.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/eval/case_file.h"
#include "optiq/eval/wilson.h"
#include "optiq/generate/loaded_model.h"

namespace optiq::eval {

struct CaseOptions {
  bool exact = false;  // float32 activations, and cache where nothing else is chosen
  std::optional<cache::CacheOptions> cache;  // also of the teacher-forced scores
  bool generate = true;                      // false: teacher-forced scores only
  std::function<void(std::size_t done, std::size_t total)> on_progress;
};

struct CaseAnswer {
  std::string id;
  std::string output;
  bool correct = false;
  double nll = 0;     // nats per token of the target, teacher-forced
  double margin = 0;  // nats: the least of log p(token) - log p(best other token)
};

struct CaseResult {
  std::vector<CaseAnswer> answers;
  int correct = 0;
  Interval interval;         // 95 %, of the accuracy
  double answer_nll = 0;     // mean over cases
  double answer_margin = 0;  // mean over cases
  double accuracy() const;
};

/// Greedy answers, scored by each case's own rule. Beside them the case's target is
/// teacher-forced: its likelihood and margin still move where accuracy is saturated.
/// Prompts are the messages through the model's own chat template; `prompt` is used
/// where the case has no messages or the model no template.
///
/// Throws    std::invalid_argument if a case does not fit the model's context;
///           Interrupted.
CaseResult run_cases(LoadedModel& model, const std::vector<Case>& cases,
                     const CaseOptions& options = {});

/// The ids of a case's prompt.
std::vector<int> prompt_of(const LoadedModel& model, const Case& c);

}  // namespace optiq::eval
