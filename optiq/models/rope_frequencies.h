// The rotation frequencies of a model, from its config.
#pragma once
#include <optional>

#include "mlx/array.h"
#include "optiq/checkpoint/rope_config.h"

namespace optiq::models {

struct RopeFrequencies {
  mlx::core::array inverse_frequency;  // [rotary_dim / 2] float32
  float scale = 1.0f;                  // of cos and sin
  // longrope: those of sequences of more than long_from tokens
  std::optional<mlx::core::array> long_inverse_frequency{};
  std::int64_t long_from = 0;
};

/// theta^(-2 i / rotary_dim), stretched as `rope_parameters` or `rope_scaling` says.
///
/// Source    Su et al. 2021; llama3: the Llama 3.1 release, proportional: Gemma 4, both
///           as transformers computes them
RopeFrequencies rope_frequencies(const checkpoint::RopeConfig& config);

}  // namespace optiq::models
