#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "command.h"
#include "number_list.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/eval/case_file.h"
#include "optiq/eval/case_task.h"
#include "optiq/eval/heldout.h"
#include "optiq/eval/kl.h"
#include "optiq/eval/perplexity.h"
#include "optiq/eval/tasks/task.h"
#include "optiq/generate/generate.h"
#include "request_options.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model;
  std::string task;
  std::string data;
  std::string reference;
  int n_samples = 0;
  std::vector<int> lengths;
  std::optional<int> distractors;
  bool exact = false;
  CacheFlags cache_flags;
  AdapterFlag adapters;
  std::optional<cache::CacheOptions> cache;  // what the flags ask for
};

eval::ForwardOptions forward_of(const Options& options) {
  return {options.exact ? kernels::Activation::kExact : kernels::Activation::kInt8,
          options.cache};
}

// The windows of --data, or of the text that comes with optiq.
std::vector<eval::Window> windows_of(const Options& options, const LoadedModel& model,
                                     int default_length) {
  constexpr std::size_t kLimitBytes = std::size_t{1} << 30;
  const std::string text = options.data.empty() ? std::string(eval::heldout_text())
                                                : read_file(options.data, kLimitBytes);
  const int limit = model.model->config().max_position_embeddings;
  if (options.lengths.size() > 1)
    throw UsageError(fmt::format("--length: --task {} takes one, found {}",
                                 options.task, options.lengths.size()));
  const int length =
      options.lengths.empty() ? std::min(default_length, limit) : options.lengths[0];
  if (length > limit)
    throw UsageError(fmt::format(
        "--length: the model takes at most {} tokens, found {}", limit, length));
  const std::vector<int> tokens = encode_raw(model, text);
  return eval::cut_windows(tokens, {.length = length, .count = options.n_samples});
}

// A bar over the tokens of all windows.
eval::ProgressCallback progress_bar(const std::string& what) {
  const auto bar = std::make_shared<std::unique_ptr<Progress>>();
  return [bar, what](std::int64_t done, std::int64_t total) {
    if (!*bar) *bar = std::make_unique<Progress>(what, total, "tokens");
    (*bar)->set(done);
    if (done == total) bar->reset();
  };
}

Json perplexity(const Options& options, LoadedModel& model, Context& context) {
  const auto windows = windows_of(options, model, 2048);
  const auto result = eval::measure_perplexity(
      *model.model, windows,
      {.forward = forward_of(options), .on_progress = progress_bar("perplexity")});
  context.out.print(
      "perplexity {:.4f} (nll {:.5f} ± {:.5f} nats) over {} tokens in {} "
      "windows\n",
      result.perplexity(), result.nll, result.nll_error, result.tokens, result.windows);
  return {{"task", "perplexity"},          {"n", result.tokens},
          {"windows", result.windows},     {"nll", result.nll},
          {"nll_error", result.nll_error}, {"perplexity", result.perplexity()}};
}

Json kl(const Options& options, LoadedModel& model, Context& context) {
  LoadedModel reference = load(options.reference, {.text = false});
  const auto windows = windows_of(options, model, 1024);
  const auto r = eval::measure_kl(
      *reference.model, *model.model, windows,
      {.forward = forward_of(options), .on_progress = progress_bar("kl")});
  context.out.print(
      "KL(reference || model) {:.6f} ± {:.6f} nats, p99 {:.5f}, same first choice "
      "{:.2f} "
      "%\nperplexity {:.4f}, of the reference {:.4f}; {} tokens in {} windows\n",
      r.kl_mean, r.kl_error, r.kl_p99, 100 * r.top1_agreement, std::exp(r.nll),
      std::exp(r.reference_nll), r.tokens, r.windows);
  return {{"task", "kl"},
          {"n", r.tokens},
          {"windows", r.windows},
          {"reference", options.reference},
          {"kl_mean", r.kl_mean},
          {"kl_error", r.kl_error},
          {"kl_p99", r.kl_p99},
          {"top1_agreement", r.top1_agreement},
          {"nll", r.nll},
          {"perplexity", std::exp(r.nll)},
          {"reference_nll", r.reference_nll},
          {"reference_perplexity", std::exp(r.reference_nll)}};
}

// The cases of --data, or those that the task makes.
std::vector<eval::Case> cases_of(const Options& options, const LoadedModel& model,
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

Json cases(const Options& options, LoadedModel& model, Context& context) {
  const auto list = cases_of(options, model, context);
  Progress bar(options.task, static_cast<std::int64_t>(list.size()), "cases");
  const auto answers =
      eval::run_cases(model, list,
                      {.exact = options.exact,
                       .cache = options.cache,
                       .on_progress = [&](std::size_t done, std::size_t) {
                         bar.set(static_cast<std::int64_t>(done));
                       }});
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
  for (const auto& a : answers)
    summary["cases"].push_back({{"id", a.id},
                                {"correct", a.correct},
                                {"nll", a.nll},
                                {"margin", a.margin},
                                {"output", a.output}});
  return summary;
}

std::vector<std::string> task_names() {
  std::vector<std::string> names = {"perplexity", "kl"};
  for (const eval::Task& task : eval::tasks()) names.emplace_back(task.name);
  names.emplace_back("all");
  return names;
}

std::string task_help() {
  std::string help =
      "What to measure:\n  perplexity  how surprised the model is by a text\n  kl      "
      "    how far its predictions are from those of --reference";
  for (const eval::Task& task : eval::tasks())
    help += fmt::format("\n  {:<10}  {}", task.name, task.what);
  return help + "\n  all         each of these that needs no further file";
}

Json run_task(Options options, const std::string& name, const std::string& data,
              LoadedModel& model, Context& context) {
  options.task = name;
  options.data = data;
  if (name == "perplexity") return perplexity(options, model, context);
  if (name == "kl") return kl(options, model, context);
  return cases(options, model, context);
}

// What is wrong with the flags of a task before a model is loaded.
void check(const Options& options) {
  const eval::Task* task = eval::find_task(options.task);
  if (options.task == "kl" && options.reference.empty())
    throw UsageError("--task kl: --reference MODEL is required");
  if (task && !task->make && options.data.empty())
    throw UsageError(fmt::format(
        "--task {}: --data FILE.jsonl with its cases is required", task->name));
  if (task && !options.lengths.empty() &&
      (task->default_length == 0 || !options.data.empty()))
    throw UsageError(fmt::format("--length: --task {} has none{}", task->name,
                                 options.data.empty() ? "" : " where --data is given"));
  if (options.distractors && (options.task != "needle" || !options.data.empty()))
    throw UsageError(
        fmt::format("--distractors: only --task needle without --data has them, found "
                    "--task {}",
                    options.task));
}

// Each file of the directory --data: cases under the name of the file, perplexity (and
// kl, where there is a reference) of texts. Without --data every task that needs none.
Json all_tasks(const Options& options, LoadedModel& model, Context& context) {
  std::vector<std::filesystem::path> files;
  if (!options.data.empty()) {
    if (!std::filesystem::is_directory(options.data))
      throw UsageError("--task all: --data: expected a directory, found '" +
                       options.data + "'");
    for (const auto& entry : std::filesystem::directory_iterator(options.data))
      files.push_back(entry.path());
    std::ranges::sort(files);
  }
  Json results = Json::array();
  const auto text = [&](const std::string& data) {
    for (const char* task : {"perplexity", "kl"})
      if (std::string(task) != "kl" || !options.reference.empty())
        results.push_back(run_task(options, task, data, model, context));
    if (!data.empty()) results.back()["data"] = data;
  };
  if (options.data.empty()) {
    text("");
    for (const eval::Task& task : eval::tasks())
      if (task.make)
        results.push_back(run_task(options, task.name, "", model, context));
  }
  for (const auto& file : files) {
    if (file.extension() == ".txt") text(file.string());
    if (file.extension() == ".jsonl")
      results.push_back(
          run_task(options, file.stem().string(), file.string(), model, context));
  }
  return {{"task", "all"}, {"tasks", results}};
}

void eval_command(const Options& options, Context& context) {
  check(options);
  LoadedModel model = load(options.model);
  const auto active = activate(options.adapters, model);
  Json summary = {{"model", options.model}, {"data", options.data}};
  if (options.data.empty()) summary["data"] = "builtin";
  summary.update(options.task == "all"
                     ? all_tasks(options, model, context)
                     : run_task(options, options.task, options.data, model, context));
  summary["exact"] = options.exact;
  if (options.cache)
    add_cache_summary({model.model->layer_shapes(), *options.cache}, summary);
  summary["peak_rss_bytes"] = peak_rss_bytes();
  context.out.summary(summary);
}

}  // namespace

Run add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  app.add_option("--task", options->task, task_help())
      ->required()
      ->check(CLI::IsMember(task_names()).description(""))
      ->type_name("TASK");
  app.add_option(
         "--data", options->data,
         "Plain text for perplexity and kl (default: a text that comes with "
         "optiq), cases as JSON lines for the rest (default: made from --seed), "
         "a directory for all")
      ->type_name("FILE");
  app.add_option("--reference", options->reference,
                 "For kl: the model to compare with, in float32")
      ->type_name("MODEL");
  app.add_option("--n-samples", options->n_samples,
                 "At most this many windows or cases (default: all), or cases of each "
                 "length that are made (default: 20)")
      ->check(CLI::Range(1, 1 << 30).description(""))
      ->type_name("N");
  add_number_list(app, "--length", options->lengths,
                  "Tokens of a window (default: 2048 for perplexity, 1024 for kl), or "
                  "of the cases that are made, several with commas (default: 2048 for "
                  "needle, 256 for hashhop)",
                  2, 1 << 30);
  app.add_option("--distractors", options->distractors,
                 fmt::format("For needle: how many like keys stand beside the one that "
                             "is asked for, 0 to {} (default: {})",
                             eval::kMostDistractors, eval::CaseWish{}.distractors))
      ->check(CLI::Range(0, eval::kMostDistractors).description(""))
      ->type_name("N");
  app.add_flag("--exact", options->exact,
               "Compute in float32, without int8 activations and float16 cache");
  add_adapter_flag(app, options->adapters);
  add_cache_flags(app, options->cache_flags);
  return [options](Context& context) {
    options->cache = chosen_cache(options->cache_flags, context.seed);
    if (options->cache && options->exact) options->cache->float_type = FloatType::kF32;
    eval_command(*options, context);
  };
}

}  // namespace optiq::app
