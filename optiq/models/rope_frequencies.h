// The rotation frequencies of a model, from its config.
#pragma once
#include "mlx/array.h"
#include "optiq/checkpoint/config.h"

namespace optiq::models {

struct RopeFrequencies {
  mlx::core::array inverse_frequency;  // [rotary_dim / 2] float32
  float scale = 1.0f;                  // of cos and sin
};

/// theta^(-2 i / rotary_dim), stretched as `rope_parameters` or `rope_scaling` says.
///
/// Source    Su et al. 2021; llama3: the Llama 3.1 release, as transformers computes it
RopeFrequencies rope_frequencies(const checkpoint::ModelConfig& config);

}  // namespace optiq::models
