// How far a model's predictions are from those of a reference, token by token.
#pragma once
#include <cstdint>
#include <vector>

#include "optiq/eval/interval.h"
#include "optiq/eval/windows.h"

namespace optiq::eval {

struct KlOptions {
  int batch_tokens = 2048;  // rows of one forward call
  ForwardOptions forward;   // the model's
  kernels::Activation reference_activation = kernels::Activation::kExact;
  ProgressCallback on_progress;
};

/// Intervals are over windows.
struct KlResult {
  std::int64_t tokens = 0;  // positions compared: every one of each window
  int windows = 0;
  Estimate kl;          // nats per token: KL(reference || model)
  double kl_error = 0;  // standard error of its mean, over windows
  double kl_p99 = 0;    // over tokens
  Estimate flip_rate;   // share of tokens whose most likely next one is another
  double nll = 0;       // nats per scored token, of the model
  double reference_nll = 0;
  Estimate nll_change;  // of the model against the reference, paired window by window
};

/// Runs both models over the same windows.
///
/// Requires  models of one vocabulary
/// Throws    std::invalid_argument if the vocabularies differ in size; Interrupted.
KlResult measure_kl(models::Model& reference, models::Model& model,
                    const std::vector<Window>& windows, const KlOptions& options = {});

}  // namespace optiq::eval
