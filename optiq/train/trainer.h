// The training loop.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/generate/loaded_model.h"
#include "optiq/train/adamw.h"
#include "optiq/train/dataset.h"
#include "optiq/train/objective.h"
#include "optiq/train/ranks.h"
#include "optiq/train/schedule.h"

namespace optiq::train {

struct TrainOptions {
  std::string base_model;        // as it is written into the adapter
  std::filesystem::path output;  // the adapter's directory

  RankOptions ranks;
  double scale = 20;                 // of a layer's product; alpha = scale x rank
  std::optional<double> alpha;       // in place of scale: scale = alpha / base rank
  bool rslora = false;               // scale x sqrt(base / rank) in each layer
  LoraOptions lora;                  // DoRA, dropout; its seed is `seed`
  std::vector<std::string> targets;  // names of linear layers (q_proj); empty: all
  int num_layers = -1;               // the last ones; -1: all
  int gradient_batches = 64;         // that by_grad looks at

  int iters = 1000;
  int batch_size = 4;
  int accumulate = 1;  // batches of one step
  Schedule schedule;
  AdamWOptions adamw;
  ObjectiveOptions objective;
  std::uint64_t seed = 0;

  int val_batches = 25;  // -1: all
  int steps_per_report = 10;
  int steps_per_eval = 200;
  int steps_per_save = 100;
  int patience = 0;  // evaluations without a new best until it ends; 0: never
  bool resume = false;
};

struct Report {
  int step;
  double train_loss;  // of the steps since the last report, a token
  double learning_rate;
  double tokens_per_s;  // read, learnt or not
};

struct TrainResult {
  std::int64_t parameters = 0;
  std::map<std::string, int> ranks;                          // by module path
  std::vector<std::pair<int, double>> train_loss, val_loss;  // by step
  std::optional<double> test_loss;
  int steps = 0;      // done, those before a resume counted
  int best_step = 0;  // of the adapter that is kept
  bool stopped_early = false;
  double tokens_per_s = 0;  // over all steps of this run, evaluation left out
};

struct TrainListener {
  std::function<void(const std::string&)> note;  // what was decided
  std::function<void(const Report&)> report;
  std::function<void(int step, double val_loss)> evaluated;
  std::function<void(int step)> saved;
};

/// Trains an adapter and writes it. Every save puts a whole directory in place, with
/// what a later run needs to go on; an interrupt saves too.
///
/// Throws    std::invalid_argument for options that fit neither the model nor each
///           other; CheckpointError for a state that cannot be gone on from;
///           Interrupted
TrainResult train(LoadedModel& model, const std::vector<Example>& training,
                  const std::vector<Example>& validation,
                  const std::vector<Example>& test, const TrainOptions& options,
                  const TrainListener& listener);

/// What an adapter costs on these examples, a token in nats.
double mean_loss(LoadedModel& model, const std::vector<Example>& examples,
                 const models::AdapterPtr& adapter, const ObjectiveOptions& options,
                 int batch_size, int most_batches);

}  // namespace optiq::train
