// Rotary position embedding as a config describes it, in its old and new spelling.
#pragma once
#include <cstdint>
#include <vector>

namespace optiq::checkpoint {

class Fields;

enum class RopeType { kDefault, kLinear, kLlama3, kYarn };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double partial_rotary_factor = 1;
  int rotary_dim = 0;  // the first rotary_dim of head_dim are rotated; even
  double factor = 1;   // linear, llama3, yarn
  std::int64_t original_max_position_embeddings = 0;  // llama3, yarn
  double low_freq_factor = 1;                         // llama3
  double high_freq_factor = 4;                        // llama3
  double beta_fast = 32;                              // yarn
  double beta_slow = 1;                               // yarn
  double attention_factor = 1;                        // yarn: multiplies cos and sin
  bool truncate = true;                               // yarn: whole correction range
  // Multimodal sections (time, height, width). Text has the same position in all three,
  // so that they change nothing for it.
  std::vector<std::int64_t> mrope_section;
  bool mrope_interleaved = false;
};

/// Reads `rope_parameters`, or `rope_scaling` with `rope_theta` beside it; a given
/// `rope_scaling` wins, as in transformers.
///
/// Throws    CheckpointError naming the key.
/// Source    RotaryEmbeddingConfigMixin of transformers 5.17; YaRN's attention factor:
///           arXiv 2309.00071, section 3.4.
RopeConfig parse_rope(const Fields& fields, int head_dim,
                      std::int64_t max_position_embeddings,
                      double default_partial_rotary_factor);

}  // namespace optiq::checkpoint
