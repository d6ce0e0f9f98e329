// Asks a model questions with known answers and counts right ones.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "optiq/cache/cache_options.h"
#include "optiq/eval/case.h"
#include "optiq/eval/interval.h"
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
  int length = 0;  // of the case: tokens that were asked; 0: not asked
  int hops = 0;
  std::string output;
  bool correct = false;
  double nll = 0;     // nats per token of the target, teacher-forced
  double margin = 0;  // nats: the least of log p(token) - log p(best other token)
};

/// Greedy answers, scored by each case's own rule. Beside them the case's target is
/// teacher-forced: its likelihood and margin still move where accuracy is saturated.
/// Prompts are the messages through the model's own chat template; `prompt` is used
/// where the case has no messages or the model no template.
///
/// Throws    ResourceError before anything is asked if a case does not fit the model's
///           context; Interrupted.
std::vector<CaseAnswer> run_cases(LoadedModel& model, const std::vector<Case>& cases,
                                  const CaseOptions& options = {});

/// What some answers come to.
struct CaseScore {
  int n = 0;
  int correct = 0;
  double accuracy = 0;
  Interval interval;         // 95 %, of the accuracy
  double answer_nll = 0;     // mean over answers
  double answer_margin = 0;  // mean over answers
};

CaseScore score(const std::vector<CaseAnswer>& answers);

/// A score of each value that `member` takes, in ascending order.
struct PartScore {
  int value;
  CaseScore score;
};
std::vector<PartScore> score_by(const std::vector<CaseAnswer>& answers,
                                int CaseAnswer::*member);

/// The ids of a case's prompt.
///
/// Throws    std::invalid_argument if the case has none for this model.
std::vector<int> prompt_of(const LoadedModel& model, const Case& c);

/// Tokens of a case's prompt and target.
int token_count(const LoadedModel& model, const Case& c);

}  // namespace optiq::eval
