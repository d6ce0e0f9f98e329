// The text on which a model is measured: windows of tokens from several domains.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace optiq::sensitivity {

/// Turns one sample into tokens: `text` as it is, `messages` (with `tools`) through the
/// model's chat template.
using Tokenize = std::function<std::vector<int>(const nlohmann::ordered_json& sample)>;

struct CalibrationOptions {
  std::string source = "builtin";  // or a JSONL file of samples
  int n_windows = 24;
  int window_tokens = 512;
  int n_held_out = 8;       // windows for verification, none of them among the others
  std::uint64_t seed = 42;  // of the shuffle
};

/// Windows that do not overlap.
struct Calibration {
  std::vector<std::vector<int>> windows;
  std::vector<std::vector<int>> held_out;
  std::map<std::string, int> samples_by_domain;
  std::string fingerprint;  // of the windows, to recognise a run that is resumed
};

/// The samples of a JSONL file: one object a line, {"domain"?, "text" | "messages",
/// "tools"?}. Empty lines are skipped.
///
/// Throws    CheckpointError naming the file and line.
std::vector<nlohmann::ordered_json> read_samples(const std::filesystem::path& file);

/// The samples that come with optiq: our own words, in seven domains
/// (data/README.md beside this file).
std::vector<nlohmann::ordered_json> builtin_samples();

/// All samples as one stream of tokens, cut into windows and shuffled. Where the text
/// gives fewer windows than asked for, the held-out windows keep their share and the
/// rest are fewer; shorter text than two windows is cut into smaller ones.
///
/// Throws    CheckpointError if there is too little text for any window.
/// Source    the way of mlx-optiq : one stream, windows, a seeded shuffle
Calibration make_calibration(const std::vector<nlohmann::ordered_json>& samples,
                             const CalibrationOptions& options,
                             const Tokenize& tokenize);

}  // namespace optiq::sensitivity
