#include "optiq/models/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace optiq::models {
namespace {

using checkpoint::RopeConfig;
using checkpoint::RopeType;

// Long waves are slowed by `factor`, short ones kept, those between blended.
float llama3(float frequency, const RopeConfig& c) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto context = static_cast<double>(c.original_max_position_embeddings);
  if (wavelength > context / c.low_freq_factor)
    return frequency / static_cast<float>(c.factor);
  if (wavelength < context / c.high_freq_factor) return frequency;
  const double smooth = (context / wavelength - c.low_freq_factor) /
                        (c.high_freq_factor - c.low_freq_factor);
  return static_cast<float>((1 - smooth) * frequency / c.factor + smooth * frequency);
}

// YaRN: dimensions that turn often within the trained context
// are kept, those that turn less than once are slowed, linearly between (arXiv
// 2309.00071, section 3.2).
float yarn(float frequency, int i, const RopeConfig& c) {
  const auto dimension_of = [&](double rotations) {
    return c.rotary_dim *
           std::log(static_cast<double>(c.original_max_position_embeddings) /
                    (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(c.theta));
  };
  double low = dimension_of(c.beta_fast), high = dimension_of(c.beta_slow);
  if (c.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(c.rotary_dim - 1));
  if (low == high) high += 0.001;
  const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
  return static_cast<float>(frequency / c.factor * ramp + frequency * (1 - ramp));
}

// The first part of the pairs turns, the others stand still.
float proportional(int i, const RopeConfig& c) {
  const auto turning = static_cast<int>(c.partial_rotary_factor * c.rotary_dim) / 2;
  if (i >= turning) return 0;
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.rotary_dim);
  return 1.0f / static_cast<float>(std::pow(c.theta, static_cast<double>(exponent))) /
         static_cast<float>(c.factor);
}

// LongRoPE: each dimension is slowed by a factor of its own.
mlx::core::array slowed(const RopeConfig& c, const std::vector<double>& factors) {
  std::vector<float> frequencies;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.rotary_dim);
    const auto base =
        static_cast<float>(std::pow(c.theta, static_cast<double>(exponent)));
    frequencies.push_back(1.0f / (static_cast<float>(factors[i]) * base));
  }
  return mlx::core::array(frequencies.begin(), {static_cast<int>(frequencies.size())});
}

}  // namespace

RopeFrequencies rope_frequencies(const checkpoint::RopeConfig& c) {
  if (c.type == RopeType::kLongRope)
    return {slowed(c, c.short_factor), static_cast<float>(c.attention_factor),
            slowed(c, c.long_factor), c.original_max_position_embeddings};
  const int half = c.rotary_dim / 2;
  std::vector<float> frequencies;
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.rotary_dim);
    float frequency =
        1.0f / static_cast<float>(std::pow(c.theta, static_cast<double>(exponent)));
    switch (c.type) {
      case RopeType::kDefault:
        break;
      case RopeType::kLinear:
        frequency /= static_cast<float>(c.factor);
        break;
      case RopeType::kLlama3:
        frequency = llama3(frequency, c);
        break;
      case RopeType::kYarn:
        frequency = yarn(frequency, i, c);
        break;
      case RopeType::kProportional:
        frequency = proportional(i, c);
        break;
      case RopeType::kLongRope:
        break;  // above
    }
    frequencies.push_back(frequency);
  }
  return {mlx::core::array(frequencies.begin(), {half}),
          c.type == RopeType::kYarn ? static_cast<float>(c.attention_factor) : 1.0f};
}

}  // namespace optiq::models
