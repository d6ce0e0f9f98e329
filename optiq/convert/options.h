// What `optiq convert` is asked to do, and what it has done.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/quantize/encoded_tensor.h"
#include "optiq/sensitivity/sensitivity.h"

namespace optiq::convert {

/// How bits are decided.
///   kOptiq    by measured divergence, verified jointly
///   kStatic   by the place of a layer and the rounding error of its weights, without
///             running the model
///   kUniform  the same for all
enum class Method { kOptiq, kStatic, kUniform };

/// Whether head, embedding, first and last block count more than measured.
///   kAuto  both ways are tried and the one with the smaller joint divergence is kept
enum class Protection { kAuto, kOn, kOff };

enum class ReferenceChoice { kAuto, kBf16, kUniform4Bit };

/// How divergences are measured.
///   kExact     each matrix alone at each width, by forward calls
///   kGradient  one pass back through the model, and one measurement of each layer
///              with experts (sensitivity/gradient_costs.h)
///   kAuto      by gradients
enum class Measuring { kAuto, kExact, kGradient };

struct Options {
  std::filesystem::path model;   // a directory in Hugging Face form
  std::string model_name;        // as the user wrote it; goes into the metadata
  std::filesystem::path output;  // replaced whole, at the end

  double target_bpw = 4.5;                  // average bits of quantized weights
  std::optional<std::int64_t> target_size;  // or: bytes of all weight files
  std::vector<int> candidate_bits = {2, 3, 4, 5, 6, 8};
  /// Of all widths; unset: 64, and 128 too where widths are measured by gradients.
  std::optional<int> group_size;
  QuantMode mode = QuantMode::kAffine;
  Method method = Method::kOptiq;
  Measuring measuring = Measuring::kAuto;
  Protection protection = Protection::kAuto;
  ReferenceChoice reference = ReferenceChoice::kAuto;

  std::string calibration = "builtin";  // or a JSONL file
  int n_calibration = 24;               // windows
  int calibration_length = 512;         // tokens of a window
  std::uint64_t seed = 42;              // of the choice of windows

  /// Sensitivities of an earlier run, its optiq/sensitivity.json, instead of measuring:
  /// for another budget.
  std::optional<std::filesystem::path> sensitivity_file;

  quantize::Search rounding = quantize::Search::kSearch;
  /// Whether codes make up for each other's errors (compensate.h); unset: with method
  /// `optiq`, and never with MLX's rounding.
  std::optional<bool> compensate;
  /// Passes over the calibration that train scales and biases (distill.h) after all
  /// else; 0: none.
  int distill_epochs = 0;
  bool tie_fused = false;  // one width for q, k, v and one for gate, up
  /// Whether to measure again around the chosen allocation; unset: where widths were
  /// measured exactly.
  std::optional<bool> refine;
  bool skip_baselines = false;
  bool resume = false;

  bool compensates() const {
    return compensate.value_or(method == Method::kOptiq) &&
           mode == QuantMode::kAffine && rounding != quantize::Search::kMlx;
  }

  /// Whether text is needed: to measure, to compensate, or to compare with the
  /// baselines.
  bool runs_the_model() const {
    return method == Method::kOptiq || compensates() || distill_epochs > 0 ||
           !skip_baselines;
  }

  /// Called with the stage's name and how much of it is done.
  std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)>
      progress;
};

/// A model with one width for all, by MLX's own rounding, beside ours.
struct Baseline {
  std::int64_t bytes = 0;
  double bpw_disk = 0;
  double kl_mean = 0;
  double kl_p99 = 0;
};

/// A model of some size, as it was measured on held-out text.
///   kUniform  one width for all, by MLX's own rounding
///   kMix      widths by sensitivity, codes as they are before the last compensation
///   kChosen   what is written
struct CurvePoint {
  enum class Series { kUniform, kMix, kChosen };
  Series series = Series::kUniform;
  std::string label;
  std::int64_t bytes = 0;  // of all weight files
  double kl_mean = 0;
  double kl_p99 = 0;
};

struct LayerResult {
  std::string name;
  std::optional<QuantSpec> spec;  // none: kept in the checkpoint's float type
  std::int64_t params = 0;
  std::int64_t bytes = 0;
  double sensitivity = 0;  // nats at 4 bits, or at the narrowest candidate
};

struct Result {
  std::filesystem::path output;
  std::int64_t bytes = 0;         // of all weight files
  std::int64_t params = 0;        // of the written model
  double bpw = 0;                 // average bits of quantized weights
  double bpw_disk = 0;            // 8 bytes / params
  std::optional<double> kl_mean;  // on held-out windows of the calibration's kind;
  std::optional<double> kl_p99;   // none where the model was not run
  std::optional<double> kl_mean_uncompensated;  // before codes made up for each other;
                                                // none where that was not tried
  bool compensated = false;                     // and was kept, for it is better
  std::optional<double> kl_mean_undistilled;  // before scales and biases were trained;
                                              // none where that was not asked for
  std::string chosen;  // which allocation won the joint verification
  sensitivity::Reference reference = sensitivity::Reference::kBf16;
  std::map<std::string, Baseline> baselines;
  std::vector<CurvePoint> curve;  // empty without baselines
  std::vector<LayerResult> layers;
  double seconds = 0;
  std::int64_t peak_rss_bytes = 0;
};

}  // namespace optiq::convert
