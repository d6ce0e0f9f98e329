// `optiq lora train`.
#include <filesystem>
#include <map>

#include "command.h"
#include "optiq/base/error.h"
#include "optiq/base/format.h"
#include "optiq/base/log.h"
#include "optiq/base/memory.h"
#include "optiq/base/progress.h"
#include "optiq/train/trainer.h"
#include "request_options.h"

namespace optiq::app {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string data;
  train::TrainOptions train;
  train::DataOptions text;
  bool exact = false;
  std::vector<std::string> targets;
};

const std::map<std::string, train::RankScaling> kScalings = [] {
  std::map<std::string, train::RankScaling> names;
  for (const auto scaling : {train::RankScaling::kConstant, train::RankScaling::kByBits,
                             train::RankScaling::kByKl, train::RankScaling::kByGrad})
    names[name(scaling)] = scaling;
  return names;
}();
const std::map<std::string, train::Decay> kDecays = {{"constant", train::Decay::kNone},
                                                     {"cosine", train::Decay::kCosine},
                                                     {"linear", train::Decay::kLinear}};
const std::map<std::string, train::LearnFrom> kLearnFrom = {
    {"all", train::LearnFrom::kAll},
    {"last", train::LearnFrom::kLastAnswer},
    {"answers", train::LearnFrom::kAnswers}};

std::vector<train::Example> examples(const fs::path& file, const LoadedModel& model,
                                     const train::DataOptions& options) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  return train::read_examples(file, model, options);
}

nlohmann::ordered_json losses(const std::vector<std::pair<int, double>>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& [step, loss] : rows)
    list.push_back({{"step", step}, {"loss", loss}});
  return list;
}

void lora_train(Options options, Context& context) {
  train::TrainOptions& o = options.train;
  o.base_model = options.model;
  o.seed = context.seed;
  o.ranks.seed = context.seed;
  o.schedule.steps = o.iters;
  o.targets = options.targets;
  if (options.exact) o.objective.activation = kernels::Activation::kExact;
  std::error_code ignored;
  if (!o.resume && fs::exists(o.output / "training_state", ignored))
    throw UsageError("--output " + o.output.string() +
                     ": a training run is there; --resume goes on with it");
  LoadedModel model = load(options.model);
  const fs::path data = options.data;
  if (!fs::exists(data / "train.jsonl", ignored))
    throw CheckpointError(data.string() + ": expected train.jsonl, found no such file");
  const auto training = examples(data / "train.jsonl", model, options.text);
  const auto validation = examples(data / "valid.jsonl", model, options.text);
  const auto test = examples(data / "test.jsonl", model, options.text);
  context.out.print("{} examples to learn from, {} to evaluate on\n", training.size(),
                    validation.size());
  train::TrainListener listener;
  listener.note = [&](const std::string& text) { context.out.print("{}\n", text); };
  listener.report = [&](const train::Report& r) {
    context.out.print("step {:5}  train loss {:.4f}  rate {:.2e}  {:.0f} tokens/s\n",
                      r.step, r.train_loss, r.learning_rate, r.tokens_per_s);
  };
  listener.evaluated = [&](int step, double loss) {
    context.out.print("step {:5}  validation loss {:.4f}\n", step, loss);
  };
  listener.saved = [&](int step) {
    log_debug("step {}: saved in {}", step, o.output.string());
  };
  const train::TrainResult result =
      train::train(model, training, validation, test, o, listener);
  if (result.stopped_early)
    context.out.print("stopped early: the best evaluation was at step {}\n",
                      result.best_step);
  if (result.test_loss) context.out.print("test loss {:.4f}\n", *result.test_loss);
  context.out.print("{}: {} parameters, {:.0f} tokens/s, peak memory {}\n",
                    o.output.string(), result.parameters, result.tokens_per_s,
                    format_bytes(peak_rss_bytes()));
  nlohmann::ordered_json summary = {{"output", o.output.string()},
                                    {"trainable_params", result.parameters},
                                    {"ranks", result.ranks},
                                    {"rank_scaling", name(o.ranks.scaling)},
                                    {"steps", result.steps},
                                    {"best_step", result.best_step},
                                    {"stopped_early", result.stopped_early},
                                    {"train_loss", losses(result.train_loss)},
                                    {"val_loss", losses(result.val_loss)},
                                    {"tokens_per_s", result.tokens_per_s},
                                    {"peak_rss_bytes", peak_rss_bytes()}};
  if (result.test_loss) summary["test_loss"] = *result.test_loss;
  context.out.summary(summary);
}

template <class Value>
void add_choice(CLI::App& app, const std::string& flag, Value& value,
                const std::map<std::string, Value>& names, const std::string& text) {
  std::string list, current;
  for (const auto& [name, one] : names) {
    list += (list.empty() ? "" : "|") + name;
    if (one == value) current = name;
  }
  app.add_option(flag, value, text + " (" + current + ")")
      ->transform(CLI::CheckedTransformer(names).description(""))
      ->type_name(list);
}

void add_data_flags(CLI::App& app, Options& o) {
  app.add_option("--data", o.data,
                 "train.jsonl, and valid.jsonl and test.jsonl if there are any: chats, "
                 "prompts with completions, or texts, as for mlx-lm")
      ->required()
      ->type_name("DIR");
  app.add_option("-o,--output", o.train.output, "The adapter's directory")
      ->required()
      ->type_name("DIR");
  add_choice(app, "--learn-from", o.text.learn_from, kLearnFrom,
             "What of a chat is learnt: all of it, its last answer, or every answer");
  app.add_flag(
      "--mask-prompt",
      [&o](std::int64_t) { o.text.learn_from = train::LearnFrom::kLastAnswer; },
      "The same as --learn-from last");
  app.add_option("--max-seq-length", o.text.max_length, "Tokens of a sequence at most")
      ->check(CLI::Range(2, 1 << 20).description(""))
      ->type_name("N")
      ->capture_default_str();
}

void add_rank_flags(CLI::App& app, Options& o) {
  auto& t = o.train;
  app.add_option("--rank", t.ranks.base, "Rank, before it is scaled")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("R")
      ->capture_default_str();
  add_choice(
      app, "--rank-scaling", t.ranks.scaling, kScalings,
      "What raises and lowers it: a layer's bits, its stored sensitivity, or its "
      "gradient");
  app.add_flag("--same-budget", t.ranks.same_budget,
               "As many parameters as the same rank everywhere has");
  app.add_flag(
      "--permute-ranks", t.ranks.permuted,
      "Deal the ranks to other layers, by --seed: the control of an experiment");
  app.add_option("--scale", t.scale, "What the product of the two matrices is times")
      ->check(number_in(0, 1e6))
      ->type_name("S")
      ->capture_default_str();
  app.add_option("--alpha", t.alpha, "In place of --scale: scale = alpha / rank")
      ->check(number_in(0, 1e6))
      ->type_name("A")
      ->excludes("--scale");
  app.add_flag("--rslora", t.rslora, "Scale by 1 / sqrt(rank) from layer to layer");
  app.add_flag("--dora", t.lora.dora, "Train the lengths of weight rows too (DoRA)");
  app.add_option("--dropout", t.lora.dropout, "Share of the inputs that are dropped")
      ->check(number_in(0, 0.99))
      ->type_name("P")
      ->capture_default_str();
  app.add_option("--target-modules", o.targets,
                 "Names of linear layers with commas, such as q_proj,v_proj (all)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("NAMES");
  app.add_option("--num-layers", t.num_layers, "The last N layers; -1: all")
      ->check(CLI::Range(-1, 1 << 20).description(""))
      ->type_name("N")
      ->capture_default_str();
}

void add_loop_flags(CLI::App& app, Options& o) {
  auto& t = o.train;
  const auto count = [&](const char* flag, int& value, const char* text,
                         int least = 1) {
    app.add_option(flag, value, text)
        ->check(CLI::Range(least, 1 << 30).description(""))
        ->type_name("N")
        ->capture_default_str();
  };
  count("--iters", t.iters, "Steps");
  count("--batch-size", t.batch_size, "Sequences of a batch");
  count("--grad-accumulation-steps", t.accumulate, "Batches of a step");
  app.add_option("--learning-rate", t.schedule.peak, "AdamW's step")
      ->check(number_in(0, 1e3))
      ->type_name("X")
      ->capture_default_str();
  add_choice(app, "--lr-schedule", t.schedule.decay, kDecays,
             "How it falls to zero over the steps");
  count("--warmup", t.schedule.warmup, "Steps in which it rises from zero", 0);
  app.add_option("--weight-decay", t.adamw.weight_decay, "AdamW's weight decay")
      ->check(number_in(0, 1e3))
      ->type_name("X")
      ->capture_default_str();
  app.add_flag("--grad-checkpoint", t.objective.checkpoint,
               "Less memory, about a third more time");
  count("--val-batches", t.val_batches, "Batches of an evaluation; -1: all", -1);
  count("--steps-per-report", t.steps_per_report, "Steps between reports");
  count("--steps-per-eval", t.steps_per_eval, "Steps between evaluations");
  count("--steps-per-save", t.steps_per_save, "Steps between saves");
  count("--patience", t.patience,
        "Evaluations without a new best loss after which it ends, and the best adapter "
        "is kept; 0: never",
        0);
  app.add_flag("--resume", t.resume, "Go on with the run in the output directory");
  app.add_flag("--exact", o.exact, "Compute in float32, without int8 activations");
}

}  // namespace

Run add_lora_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  add_model_argument(app, options->model);
  add_data_flags(app, *options);
  add_rank_flags(app, *options);
  add_loop_flags(app, *options);
  return [options](Context& context) { lora_train(*options, context); };
}

}  // namespace optiq::app
