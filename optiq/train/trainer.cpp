#include "optiq/train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <stdexcept>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/write_adapter.h"
#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/base/signal.h"
#include "optiq/train/lora_plan.h"
#include "optiq/train/training_state.h"

namespace optiq::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr const char* kStateDirectory = "training_state";

// The order in which examples come: an endless row of shuffled passes, by its position
// alone, so that a run that goes on draws what it would have drawn.
class Draw {
 public:
  Draw(std::size_t n, std::uint64_t seed) : n_(n), seed_(seed) {}

  std::size_t at(std::uint64_t position) {
    const std::uint64_t pass = position / n_;
    if (order_.empty() || pass != pass_) {
      pass_ = pass;
      order_.resize(n_);
      std::iota(order_.begin(), order_.end(), std::size_t{0});
      std::mt19937_64 random(seed_ ^ (0x9e3779b97f4a7c15u * (pass + 1)));
      for (std::size_t i = n_; i > 1; --i)
        std::swap(order_[i - 1], order_[random() % i]);
    }
    return order_[position % n_];
  }

 private:
  std::size_t n_;
  std::uint64_t seed_;
  std::uint64_t pass_ = 0;
  std::vector<std::size_t> order_;
};

// What must be the same for a run to go on.
Json identity_of(const TrainOptions& o, const std::vector<LoraModule>& modules,
                 std::size_t examples) {
  Json ranks = Json::object();
  for (const LoraModule& m : modules) ranks[m.module->path] = {m.rank, m.scale};
  return {{"ranks", ranks},
          {"dora", o.lora.dora},
          {"dropout", o.lora.dropout},
          {"batch_size", o.batch_size},
          {"accumulate", o.accumulate},
          {"learning_rate", o.schedule.peak},
          {"decay", static_cast<int>(o.schedule.decay)},
          {"decay_steps", o.schedule.decay == Decay::kNone ? 0 : o.schedule.steps},
          {"warmup", o.schedule.warmup},
          {"weight_decay", o.adamw.weight_decay},
          {"seed", o.seed},
          {"examples", examples},
          {"exact", o.objective.activation == kernels::Activation::kExact}};
}

Json settings_of(const TrainOptions& o, const TrainResult& result) {
  Json settings = {{"rank", o.ranks.base},
                   {"rank_scaling", name(o.ranks.scaling)},
                   {"same_budget", o.ranks.same_budget},
                   {"permuted", o.ranks.permuted},
                   {"scale", o.alpha ? *o.alpha / o.ranks.base : o.scale},
                   {"rslora", o.rslora},
                   {"dora", o.lora.dora},
                   {"dropout", o.lora.dropout},
                   {"target_modules", o.targets},
                   {"num_layers", o.num_layers},
                   {"iters", o.iters},
                   {"batch_size", o.batch_size},
                   {"grad_accumulation_steps", o.accumulate},
                   {"learning_rate", o.schedule.peak},
                   {"warmup", o.schedule.warmup},
                   {"weight_decay", o.adamw.weight_decay},
                   {"seed", o.seed},
                   {"steps", result.steps}};
  if (!result.val_loss.empty()) settings["val_loss"] = result.val_loss.back().second;
  return settings;
}

class Run {
 public:
  Run(LoadedModel& model, const std::vector<Example>& training,
      const std::vector<Example>& validation, const TrainOptions& options,
      const TrainListener& listener, std::vector<LoraModule> modules)
      : model_(model),
        training_(training),
        validation_(validation),
        options_(options),
        listener_(listener),
        identity_(identity_of(options, modules, training.size())),
        parameters_(std::move(modules), lora_options(options)),
        adamw_(parameters_.values(), options.adamw),
        objective_(*model.model, options.objective),
        draw_(training.size(), options.seed) {
    result_.parameters = parameters_.count();
    for (const LoraModule& m : parameters_.modules())
      result_.ranks[m.module->path] = m.rank;
  }

  TrainResult run() {
    if (options_.resume) restore();
    const int first = result_.steps;
    if (first == 0 && !validation_.empty()) evaluate(0);
    try {
      while (result_.steps < options_.iters && !result_.stopped_early) {
        throw_if_interrupted();
        step();
        const int n = result_.steps;
        const bool last = n == options_.iters;
        if (n % options_.steps_per_report == 0 || last) report();
        if (!validation_.empty() && (n % options_.steps_per_eval == 0 || last))
          evaluate(n);
        if (n % options_.steps_per_save == 0 && !last && !result_.stopped_early)
          save(parameters_.values());
      }
    } catch (const Interrupted&) {
      if (result_.steps > first) save(parameters_.values());
      throw;
    }
    if (options_.patience > 0 && !best_.empty()) {
      save(best_);
      parameters_.values() = best_;
    } else {
      result_.best_step = result_.steps;
      save(parameters_.values());
    }
    if (seconds_ > 0) result_.tokens_per_s = static_cast<double>(tokens_) / seconds_;
    return std::move(result_);
  }

  models::AdapterPtr adapter() const {
    return parameters_.adapter(parameters_.values());
  }

 private:
  static LoraOptions lora_options(const TrainOptions& options) {
    LoraOptions lora = options.lora;
    lora.seed = options.seed;
    return lora;
  }

  void step() {
    const Clock::time_point started = Clock::now();
    std::vector<mx::array> sum;
    for (int k = 0; k < options_.accumulate; ++k) {
      const auto number = static_cast<std::uint64_t>(result_.steps) *
                              static_cast<std::uint64_t>(options_.accumulate) +
                          static_cast<std::uint64_t>(k);
      std::vector<const Example*> batch;
      for (int i = 0; i < options_.batch_size; ++i) {
        batch.push_back(&training_[draw_.at(
            number * static_cast<std::uint64_t>(options_.batch_size) +
            static_cast<std::uint64_t>(i))]);
        report_tokens_ += static_cast<std::int64_t>(batch.back()->tokens.size());
      }
      std::vector<mx::array> gradients;
      const Loss loss = objective_.gradients(batch, parameters_, number, gradients);
      if (!std::isfinite(loss.sum))
        throw ResourceError(fmt::format(
            "step {}: the loss is not finite; a smaller --learning-rate may help",
            result_.steps + 1));
      report_loss_.add(loss);
      if (options_.accumulate == 1) {
        sum = std::move(gradients);
      } else {
        for (std::size_t i = 0; i < gradients.size(); ++i) {
          const mx::array share =
              gradients[i] / static_cast<float>(options_.accumulate);
          if (k == 0)
            sum.push_back(share);
          else
            sum[i] = sum[i] + share;
        }
        mx::eval(sum);
      }
    }
    rate_ = options_.schedule.at(result_.steps);
    adamw_.step(parameters_.values(), sum, rate_);
    ++result_.steps;
    report_seconds_ += std::chrono::duration<double>(Clock::now() - started).count();
  }

  void report() {
    const double mean = report_loss_.mean();
    result_.train_loss.emplace_back(result_.steps, mean);
    if (listener_.report)
      listener_.report({result_.steps, mean, rate_,
                        static_cast<double>(report_tokens_) / report_seconds_});
    tokens_ += report_tokens_;
    seconds_ += report_seconds_;
    report_loss_ = {};
    report_tokens_ = 0;
    report_seconds_ = 0;
  }

  void evaluate(int step) {
    const double loss = mean_loss(model_, validation_, adapter(), options_.objective,
                                  options_.batch_size, options_.val_batches);
    result_.val_loss.emplace_back(step, loss);
    if (listener_.evaluated) listener_.evaluated(step, loss);
    if (step == 0) return;
    if (best_.empty() || loss < best_loss_) {
      best_ = parameters_.values();
      best_loss_ = loss;
      result_.best_step = step;
      waited_ = 0;
    } else if (++waited_ >= options_.patience && options_.patience > 0) {
      result_.stopped_early = true;
    }
  }

  void save(const std::vector<mx::array>& values) {
    if (report_loss_.tokens > 0) report();  // a state begins with a new report
    AtomicDirectory directory(options_.output, "adapter_config.json");
    const auto adapter = parameters_.adapter(values);
    adapters::write_adapter(
        directory.path(), *model_.model,
        {adapter.get(), parameters_.magnitudes(), options_.base_model,
         options_.lora.dropout, settings_of(options_, result_)});
    fs::create_directory(directory.path() / kStateDirectory);
    TrainingState state{.about = {{"identity", identity_},
                                  {"steps", result_.steps},
                                  {"optimizer_steps", adamw_.steps()},
                                  {"train_loss", result_.train_loss},
                                  {"val_loss", result_.val_loss},
                                  {"best_step", result_.best_step},
                                  {"best_loss", best_loss_},
                                  {"waited", waited_}},
                        .values = parameters_.values(),
                        .first = adamw_.first(),
                        .second = adamw_.second(),
                        .best = best_};
    write_state(directory.path() / kStateDirectory, state, parameters_.names());
    directory.commit();
    if (listener_.saved) listener_.saved(result_.steps);
  }

  void restore() {
    const fs::path directory = options_.output / kStateDirectory;
    TrainingState state =
        read_state(directory, parameters_.names(), parameters_.values());
    const fs::path file = directory / "state.json";
    try {
      const Json& about = state.about;
      for (const auto& [key, value] : identity_.items())
        if (about.at("identity").at(key) != value)
          throw std::invalid_argument(fmt::format(
              "--resume: {} was {} in the run that is to go on, and is {} now", key,
              about.at("identity").at(key).dump().substr(0, 60),
              value.dump().substr(0, 60)));
      result_.steps = about.at("steps").get<int>();
      about.at("train_loss").get_to(result_.train_loss);
      about.at("val_loss").get_to(result_.val_loss);
      result_.best_step = about.at("best_step").get<int>();
      best_loss_ = about.at("best_loss").get<double>();
      waited_ = about.at("waited").get<int>();
      adamw_.restore(std::move(state.first), std::move(state.second),
                     about.at("optimizer_steps").get<int>());
    } catch (const Json::exception& error) {
      throw CheckpointError(file.string() +
                            ": expected the state of a training run: " + error.what());
    }
    parameters_.values() = std::move(state.values);
    best_ = std::move(state.best);
  }

  LoadedModel& model_;
  const std::vector<Example>& training_;
  const std::vector<Example>& validation_;
  const TrainOptions& options_;
  const TrainListener& listener_;
  const Json identity_;
  LoraParameters parameters_;
  AdamW adamw_;
  Objective objective_;
  Draw draw_;
  TrainResult result_;
  double rate_ = 0;
  Loss report_loss_;
  std::int64_t report_tokens_ = 0, tokens_ = 0;
  double report_seconds_ = 0, seconds_ = 0;
  std::vector<mx::array> best_;
  double best_loss_ = 0;
  int waited_ = 0;
};

}  // namespace

double mean_loss(LoadedModel& model, const std::vector<Example>& examples,
                 const models::AdapterPtr& adapter, const ObjectiveOptions& options,
                 int batch_size, int most_batches) {
  Objective objective(*model.model, options);
  Loss total;
  const auto step = static_cast<std::size_t>(batch_size);
  int batches = 0;
  for (std::size_t i = 0; i < examples.size(); i += step, ++batches) {
    if (most_batches >= 0 && batches == most_batches) break;
    throw_if_interrupted();
    std::vector<const Example*> batch;
    for (std::size_t j = i; j < std::min(examples.size(), i + step); ++j)
      batch.push_back(&examples[j]);
    total.add(objective.loss(batch, adapter));
  }
  return total.mean();
}

TrainResult train(LoadedModel& model, const std::vector<Example>& training,
                  const std::vector<Example>& validation,
                  const std::vector<Example>& test, const TrainOptions& options,
                  const TrainListener& listener) {
  std::vector<LoraModule> modules = plan_lora(model, training, options);
  if (listener.note) listener.note(describe(modules, options.ranks));
  Run run(model, training, validation, options, listener, std::move(modules));
  TrainResult result = run.run();
  if (!test.empty())
    result.test_loss = mean_loss(model, test, run.adapter(), options.objective,
                                 options.batch_size, -1);
  return result;
}

}  // namespace optiq::train
