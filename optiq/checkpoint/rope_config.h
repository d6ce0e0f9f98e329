// Rotary position embedding as a config describes it, in its old and new spelling.
#pragma once
#include <cstdint>
#include <vector>

namespace optiq::checkpoint {

class Fields;

enum class RopeType { kDefault, kLinear, kLlama3, kYarn, kLongRope, kProportional };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double partial_rotary_factor = 1;
  int rotary_dim = 0;  // the first rotary_dim of head_dim are rotated; even
  double factor = 1;   // linear, llama3, yarn, proportional
  std::int64_t original_max_position_embeddings = 0;  // llama3, yarn, longrope
  double low_freq_factor = 1;                         // llama3
  double high_freq_factor = 4;                        // llama3
  double beta_fast = 32;                              // yarn
  double beta_slow = 1;                               // yarn
  double attention_factor = 1;  // yarn, longrope: multiplies cos and sin
  bool truncate = true;         // yarn: whole correction range
  // longrope: each frequency is divided by one of these, [rotary_dim / 2]; by those of
  // long_factor where a sequence is longer than original_max_position_embeddings.
  std::vector<double> short_factor, long_factor;
  // Multimodal sections (time, height, width). Text has the same position in all three,
  // so that they change nothing for it.
  std::vector<std::int64_t> mrope_section;
  bool mrope_interleaved = false;

  /// True if a sequence of so many tokens turns by long_factor.
  bool turns_long(std::int64_t tokens) const {
    return type == RopeType::kLongRope && tokens > original_max_position_embeddings;
  }
};

/// Where a model's rotary embedding is described, and what holds where it is silent.
struct RopeSource {
  int head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double partial_rotary_factor = 1;
  double theta = 10000;
  RopeType type = RopeType::kDefault;
  const char* theta_key = "rope_theta";  // beside rope_parameters
  /// The layers' type where each has an object of its own in rope_parameters.
  const char* layer_type = nullptr;
  bool takes_rope_scaling = true;
};

/// Reads `rope_parameters`, or `rope_scaling` with `rope_theta` beside it; a given
/// `rope_scaling` wins, as in transformers.
///
/// Throws    CheckpointError naming the key.
/// Source    RotaryEmbeddingConfigMixin of transformers 5.17; YaRN's attention factor:
///           arXiv 2309.00071, section 3.4; LongRoPE's: arXiv 2402.13753, section 3.3.
RopeConfig parse_rope(const Fields& fields, const RopeSource& source);

}  // namespace optiq::checkpoint
