// How surprised a model is by a text.
#pragma once
#include <cstdint>
#include <vector>

#include "optiq/eval/interval.h"
#include "optiq/eval/windows.h"

namespace optiq::eval {

struct PerplexityOptions {
  int batch_tokens = 4096;  // rows of one forward call
  ForwardOptions forward;
  ProgressCallback on_progress;
};

struct Perplexity {
  std::int64_t tokens = 0;  // scored: all but the first of each window
  int windows = 0;
  double nll = 0;                       // nats, mean over tokens
  double nll_error = 0;                 // standard error of it, over windows
  double perplexity() const;            // e^nll
  std::vector<Observation> of_windows;  // nats and scored tokens of each
};

/// The mean negative log likelihood of each token given those before it in its window.
///
/// Throws    Interrupted between forward calls.
Perplexity measure_perplexity(models::Model& model, const std::vector<Window>& windows,
                              const PerplexityOptions& options = {});

/// Nats per token that `model` has more than `reference`, paired window by window.
///
/// Requires  both measured on the same windows
Estimate nll_change(const Perplexity& reference, const Perplexity& model);

}  // namespace optiq::eval
