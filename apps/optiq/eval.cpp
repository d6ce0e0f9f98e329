#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "command.h"
#include "eval_tasks.h"
#include "number_list.h"
#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/memory.h"
#include "optiq/eval/tasks/task.h"
#include "request_options.h"

namespace optiq::app {
namespace {

using Json = nlohmann::ordered_json;

struct Options : EvalOptions {
  std::string model;
  std::string reference;
  CacheFlags cache_flags;
  AdapterFlag adapters;
};

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

Json run_task(EvalOptions options, const std::string& name, const std::string& data,
              EvalModels& models, Context& context) {
  options.task = name;
  options.data = data;
  if (name == "perplexity") return eval_perplexity(options, models, context);
  if (name == "kl") return eval_kl(options, models, context);
  return eval_cases(options, models, context);
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

// Each task's figure beside the reference's, with the interval of their difference.
std::string changes_table(const Json& tasks) {
  Table table(
      {"task", ">n", "figure", ">model", ">reference", ">change", ">95 % interval"});
  const auto number = [](const Json& value) {
    return fmt::format("{:.4f}", value.get<double>());
  };
  const auto row = [&](const Json& task, const std::string& figure,
                       const std::string& change) {
    const Json& interval = task.at(change + "_interval");
    table.add_row({task.at("task").get<std::string>(),
                   std::to_string(task.at("n").get<std::int64_t>()), figure,
                   number(task.at(figure)), number(task.at("reference_" + figure)),
                   fmt::format("{:+.4f}", task.at(change).get<double>()),
                   fmt::format("{:+.4f} to {:+.4f}", interval[0].get<double>(),
                               interval[1].get<double>())});
  };
  for (const Json& task : tasks) {
    if (task.contains("accuracy")) {
      row(task, "accuracy", "accuracy_change");
      row(task, "answer_nll", "answer_nll_change");
    } else {
      row(task, "nll", "nll_change");
    }
  }
  return table.text();
}

// Each file of the directory --data: cases under the name of the file, perplexity (and
// kl, where there is a reference) of texts. Without --data every task that needs none.
Json all_tasks(const Options& options, EvalModels& models, Context& context) {
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
  const auto add = [&](const std::string& task, const std::string& data) {
    results.push_back(run_task(options, task, data, models, context));
    if (!data.empty()) results.back()["data"] = data;
  };
  const auto text = [&](const std::string& data) {
    add("perplexity", data);
    if (models.reference) add("kl", data);
  };
  if (options.data.empty()) {
    text("");
    for (const eval::Task& task : eval::tasks())
      if (task.make) add(task.name, "");
  }
  for (const auto& file : files) {
    if (file.extension() == ".txt") text(file.string());
    if (file.extension() == ".jsonl") add(file.stem().string(), file.string());
  }
  if (models.reference) context.out.print("\n{}", changes_table(results));
  return {{"task", "all"}, {"tasks", results}};
}

void eval_command(const Options& options, Context& context) {
  check(options);
  EvalModels models{load(options.model), std::nullopt};
  const auto active = activate(options.adapters, models.model);
  if (!options.reference.empty()) models.reference = load(options.reference);
  Json summary = {{"model", options.model}, {"data", options.data}};
  if (options.data.empty()) summary["data"] = "builtin";
  if (models.reference) summary["reference"] = options.reference;
  summary.update(options.task == "all"
                     ? all_tasks(options, models, context)
                     : run_task(options, options.task, options.data, models, context));
  summary["exact"] = options.exact;
  if (options.cache)
    add_cache_summary({models.model.model->layer_shapes(), *options.cache}, summary);
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
                 "The model to compare with, run in float32: required for kl; for the "
                 "others, what changed from it, with 95 % intervals of paired values")
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
