// A model's answers beside those of a reference to the same cases.
#pragma once
#include <span>

#include "optiq/eval/case_task.h"
#include "optiq/eval/interval.h"

namespace optiq::eval {

/// Differences are model minus reference, paired case by case.
struct CaseComparison {
  int gained = 0;  // right, where the reference is wrong
  int lost = 0;    // wrong, where the reference is right
  Estimate accuracy;
  Estimate answer_nll;     // nats per token of the targets
  Estimate answer_margin;  // nats
};

/// Requires  answers to the same cases, in the same order
CaseComparison compare(std::span<const CaseAnswer> reference,
                       std::span<const CaseAnswer> answers);

}  // namespace optiq::eval
