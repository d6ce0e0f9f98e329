// How surprised a model is by a text.
#pragma once
#include <cstdint>
#include <vector>

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
  double nll = 0;             // nats, mean over tokens
  double nll_error = 0;       // standard error of it, over windows
  double perplexity() const;  // e^nll
};

/// The mean negative log likelihood of each token given those before it in its window.
///
/// Throws    Interrupted between forward calls.
Perplexity measure_perplexity(models::Model& model, const std::vector<Window>& windows,
                              const PerplexityOptions& options = {});

}  // namespace optiq::eval
