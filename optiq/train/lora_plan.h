// Which linear layers are trained, and with what rank and scale.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "optiq/train/trainer.h"

namespace optiq::train {

/// Reads what the options' rank scaling reads: bits, stored sensitivities, or gradients
/// over the first `gradient_batches` batches of `training`.
///
/// Throws    std::invalid_argument for targets that the model does not have
std::vector<LoraModule> plan_lora(LoadedModel& model,
                                  const std::vector<Example>& training,
                                  const TrainOptions& options);

/// "ranks by_bits: 8 to 16, 1.2 M parameters (constant rank 8: 0.8 M)".
std::string describe(const std::vector<LoraModule>& modules,
                     const RankOptions& options);

}  // namespace optiq::train
