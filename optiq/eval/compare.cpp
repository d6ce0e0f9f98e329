#include "optiq/eval/compare.h"

#include <vector>

#include "optiq/base/error.h"

namespace optiq::eval {
namespace {

template <class Difference>
Estimate change(std::span<const CaseAnswer> reference,
                std::span<const CaseAnswer> answers, const Difference& difference) {
  std::vector<Observation> observations;
  for (std::size_t i = 0; i < answers.size(); ++i)
    observations.push_back({difference(answers[i], reference[i]), 1});
  return bootstrap(observations);
}

}  // namespace

CaseComparison compare(std::span<const CaseAnswer> reference,
                       std::span<const CaseAnswer> answers) {
  OPTIQ_CHECK(reference.size() == answers.size(), "answers to the same cases");
  CaseComparison result;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    result.gained += answers[i].correct && !reference[i].correct;
    result.lost += !answers[i].correct && reference[i].correct;
  }
  result.accuracy = change(reference, answers, [](const auto& a, const auto& b) {
    return static_cast<double>(a.correct) - static_cast<double>(b.correct);
  });
  result.answer_nll = change(
      reference, answers, [](const auto& a, const auto& b) { return a.nll - b.nll; });
  result.answer_margin = change(reference, answers, [](const auto& a, const auto& b) {
    return a.margin - b.margin;
  });
  return result;
}

}  // namespace optiq::eval
