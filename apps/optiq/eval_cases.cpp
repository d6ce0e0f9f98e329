// Questions with known answers.
#include <algorithm>
#include <optional>
#include <utility>

#include "eval_tasks.h"
#include "optiq/base/error.h"
#include "optiq/base/progress.h"
#include "optiq/eval/case_file.h"
#include "optiq/eval/case_task.h"
#include "optiq/eval/compare.h"
#include "optiq/eval/tasks/task.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;

// The cases of --data, or those that the task makes.
std::vector<eval::Case> cases_of(const EvalOptions& options, const LoadedModel& model,
                                 const Context& context) {
  if (!options.data.empty()) {
    auto list = eval::read_cases(options.data);
    if (options.n_samples > 0 &&
        list.size() > static_cast<std::size_t>(options.n_samples))
      list.resize(static_cast<std::size_t>(options.n_samples));
    return list;
  }
  const eval::Task& task = *eval::find_task(options.task);
  eval::MakeOptions make{.seed = context.seed};
  if (options.n_samples > 0) make.count = options.n_samples;
  if (options.distractors) make.distractors = *options.distractors;
  if (task.default_length > 0) {
    const int limit = model.model->config().max_position_embeddings;
    make.lengths = options.lengths;
    if (make.lengths.empty()) make.lengths = {std::min(task.default_length, limit)};
    for (const int length : make.lengths)
      if (length > limit)
        throw ResourceError(fmt::format(
            "--length: the model's context has room for {} tokens, found {}", limit,
            length));
  }
  try {
    return eval::make_cases(
        task, make, [&](const eval::Case& c) { return eval::token_count(model, c); });
  } catch (const std::invalid_argument& error) {
    throw UsageError(fmt::format("--task {}: {}", options.task, error.what()));
  }
}

Json json_of(const eval::CaseScore& s) {
  return {{"n", s.n},
          {"correct", s.correct},
          {"accuracy", s.accuracy},
          {"accuracy_interval", {s.interval.low, s.interval.high}},
          {"answer_nll", s.answer_nll},
          {"answer_margin", s.answer_margin}};
}

// A table of the parts that have different values, and their list for the summary. Both
// are empty where the member says nothing.
Json parts(const std::vector<eval::CaseAnswer>& answers, const char* name,
           int eval::CaseAnswer::*member, Context& context) {
  const auto scores = eval::score_by(answers, member);
  Json list = Json::array();
  if (scores.size() > 1)
    context.out.print("{:>8} {:>5} {:>6} {:>9} {:>16} {:>11} {:>13}\n", name, "n",
                      "right", "accuracy", "95 % interval", "answer nll",
                      "least margin");
  for (const auto& [value, s] : scores) {
    if (value == 0) continue;
    if (scores.size() > 1)
      context.out.print(
          "{:>8} {:>5} {:>6} {:>9.3f} {:>7.3f} to {:.3f} {:>12.4f} {:>13.3f}\n", value,
          s.n, s.correct, s.accuracy, s.interval.low, s.interval.high, s.answer_nll,
          s.answer_margin);
    Json part = {{name, value}};
    part.update(json_of(s));
    list.push_back(part);
  }
  return list;
}

eval::CaseOptions case_options(bool exact, std::optional<cache::CacheOptions> cache) {
  eval::CaseOptions options;
  options.exact = exact;
  options.cache = std::move(cache);
  return options;
}

std::vector<eval::CaseAnswer> ask(const std::string& name, LoadedModel& model,
                                  const std::vector<eval::Case>& cases,
                                  eval::CaseOptions options) {
  Progress bar(name, static_cast<std::int64_t>(cases.size()), "cases");
  options.on_progress = [&](std::size_t done, std::size_t) {
    bar.set(static_cast<std::int64_t>(done));
  };
  return eval::run_cases(model, cases, options);
}

// What the reference answers to the same cases, and what changed.
void compare(const std::vector<eval::CaseAnswer>& reference,
             const std::vector<eval::CaseAnswer>& answers, Json& summary,
             Context& context) {
  const eval::CaseScore theirs = eval::score(reference);
  const eval::CaseComparison c = eval::compare(reference, answers);
  context.out.print(
      "  of the reference {:.3f}: {} lost, {} gained, accuracy {:+.3f} (95 % interval "
      "{:+.3f} to {:+.3f}), answer nll {:+.4f} ({:+.4f} to {:+.4f})\n",
      theirs.accuracy, c.lost, c.gained, c.accuracy.mean, c.accuracy.interval.low,
      c.accuracy.interval.high, c.answer_nll.mean, c.answer_nll.interval.low,
      c.answer_nll.interval.high);
  summary["reference_accuracy"] = theirs.accuracy;
  summary["reference_answer_nll"] = theirs.answer_nll;
  summary["reference_answer_margin"] = theirs.answer_margin;
  summary["lost"] = c.lost;
  summary["gained"] = c.gained;
  add_estimate(summary, "accuracy_change", c.accuracy);
  add_estimate(summary, "answer_nll_change", c.answer_nll);
  add_estimate(summary, "answer_margin_change", c.answer_margin);
}

}  // namespace

Json eval_cases(const EvalOptions& options, EvalModels& models, Context& context) {
  const auto list = cases_of(options, models.model, context);
  const auto answers =
      ask(options.task, models.model, list, case_options(options.exact, options.cache));
  const eval::CaseScore s = eval::score(answers);
  context.out.print(
      "{}: {} of {} right, accuracy {:.3f} (95 % interval {:.3f} to {:.3f}); answer "
      "nll {:.4f}, least margin {:.3f} nats\n",
      options.task, s.correct, s.n, s.accuracy, s.interval.low, s.interval.high,
      s.answer_nll, s.answer_margin);
  Json summary = {{"task", options.task}};
  summary.update(json_of(s));
  if (options.data.empty()) summary["seed"] = context.seed;
  if (Json by = parts(answers, "length", &eval::CaseAnswer::length, context);
      !by.empty())
    summary["by_length"] = by;
  if (Json by = parts(answers, "hops", &eval::CaseAnswer::hops, context); !by.empty())
    summary["by_hops"] = by;
  if (models.reference)
    compare(ask("reference", *models.reference, list, case_options(true, std::nullopt)),
            answers, summary, context);
  for (const auto& a : answers)
    summary["cases"].push_back({{"id", a.id},
                                {"correct", a.correct},
                                {"nll", a.nll},
                                {"margin", a.margin},
                                {"output", a.output}});
  return summary;
}

}  // namespace optiq::app
