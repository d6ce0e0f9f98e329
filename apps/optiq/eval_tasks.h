// What `optiq eval` measures: one function a kind of task. Each prints what it found
// and returns its part of the summary.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "cache_flags.h"
#include "command.h"
#include "optiq/eval/interval.h"
#include "optiq/generate/generate.h"

namespace optiq::app {

struct EvalOptions {
  std::string task;
  std::string data;  // empty: what comes with optiq
  int n_samples = 0;
  std::vector<int> lengths;
  std::optional<int> distractors;
  bool exact = false;
  std::optional<cache::CacheOptions> cache;  // what the flags ask for
};

/// A model, and the one that it is compared with, which runs in float32.
struct EvalModels {
  LoadedModel model;
  std::optional<LoadedModel> reference;
};

nlohmann::ordered_json eval_perplexity(const EvalOptions& options, EvalModels& models,
                                       Context& context);

/// Requires  a reference
nlohmann::ordered_json eval_kl(const EvalOptions& options, EvalModels& models,
                               Context& context);

/// The cases of options.data, or those that the task makes.
nlohmann::ordered_json eval_cases(const EvalOptions& options, EvalModels& models,
                                  Context& context);

/// {key: mean, key + "_interval": [low, high]}
void add_estimate(nlohmann::ordered_json& summary, const std::string& key,
                  const eval::Estimate& estimate);

}  // namespace optiq::app
