// The whole of `optiq kv-cache`: measure each layer's cache, choose its bits, verify
// them jointly, write them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/models/model.h"
#include "optiq/sensitivity/calibration.h"
#include "optiq/sensitivity/kv/kv_sensitivity.h"

namespace optiq::convert {

struct KvCacheOptions {
  std::filesystem::path output;  // a directory; made, or written into

  double target_bits = 4.5;         // mean of all cached values, codes only
  std::vector<int> candidate_bits;  // empty: those of the format below
  int group_size = 64;
  std::string format = "affine";  // or turbo
  bool separate_kv = false;       // keys and values apart
  bool center_keys = true;        // take each channel's mean off the keys
  bool equalize = true;           // scale channels alike where that measures better

  std::string calibration = "builtin";  // or a JSONL file
  int n_samples = 5;                    // sequences to measure on
  int seq_len = 512;                    // tokens of one
  std::uint64_t seed = 42;              // of the choice of sequences
  std::uint64_t rotation_seed = 0;      // of turbo, as --seed of `generate`

  /// Called with the stage's name and how much of it is done.
  std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)>
      progress;
};

/// The candidates of a format where none are asked for.
std::vector<int> default_kv_bits(std::string_view format);

/// One cache on the held-out sequences.
struct KvVerified {
  double average_bits = 0;
  std::int64_t bytes_per_token = 0;
  double kl_mean = 0;  // nats per token: KL(float32 cache || this one)
  double kl_p99 = 0;
};

struct KvCacheResult {
  std::filesystem::path output;
  std::vector<sensitivity::KvSensitivity> sensitivities;
  std::vector<std::string> layer_names;  // by model layer; empty without attention
  sensitivity::KvPlan plan;
  std::string chosen;  // which allocation won the joint verification
  int n_layers_with_scaled_keys = 0;
  int n_layers_with_scaled_values = 0;
  KvVerified verified;
  std::map<std::string, KvVerified> baselines;
  double most_to_mean = 0;  // of the layers' sensitivities at the narrowest candidate
  int n_sequences = 0;
  int n_held_out = 0;
  int seq_len = 0;
  double seconds = 0;
};

/// Writes kv_config.json, kv_sensitivity.json and, where channels are centred or
/// scaled, kv_channels.safetensors to `output`: all whole, kv_config.json last.
///
/// Throws    std::invalid_argument for options that the model cannot meet; Interrupted,
///           ResourceError, CheckpointError; nothing is written then
/// Cost      sensitivity::equalize, sensitivity::measure_kv, and a forward call over
/// all sequences for every
///           swap and baseline
KvCacheResult choose_kv_cache(models::Model& model,
                              const sensitivity::Tokenize& tokenize,
                              const KvCacheOptions& options);

}  // namespace optiq::convert
