// What a conversion works on: the source, its model in memory, the text to measure on.
#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "optiq/checkpoint/checkpoint.h"
#include "optiq/convert/options.h"
#include "optiq/models/model.h"
#include "optiq/sensitivity/calibration.h"

namespace optiq::convert {

class Session {
 public:
  /// Opens the source, loads the model, and draws the calibration if the options need
  /// any text.
  ///
  /// Throws    CheckpointError; std::invalid_argument if the source is quantized.
  explicit Session(const Options& options);

  const checkpoint::Checkpoint& source() const { return source_; }
  models::Model& model() { return *model_; }
  const sensitivity::Calibration& calibration() const { return calibration_; }
  sensitivity::Reference reference() const { return reference_; }

  /// Whether the model's own weights may be read again and again: else what is held
  /// beside them is a small share of theirs, and each layer is read as seldom as can
  /// be.
  bool fits_memory() const { return fits_memory_; }

  /// Whether costs are to come from gradients, which are by the model's own weights.
  bool by_gradients() const { return by_gradients_; }

  /// The windows of the calibration that costs and plans are measured on: by gradients
  /// fewer of them for larger models, whose matrices are no harder to tell apart.
  std::vector<std::vector<int>> measured_windows() const;

  /// Values in all tensors that are written.
  std::int64_t params() const { return params_; }

  /// Everything that a measured layer depends on besides the layer.
  nlohmann::json identity(const std::vector<QuantSpec>& formats,
                          const Options& options) const;

  /// Costs in the form of measured ones that need no text: a layer's place times the
  /// error of each format, that of its own weights for method `static`, else that of
  /// Gaussian ones.
  sensitivity::Sensitivities static_sensitivities(const std::vector<QuantSpec>& formats,
                                                  const Options& options);

 private:
  checkpoint::Checkpoint source_;
  sensitivity::Calibration calibration_;
  std::unique_ptr<models::Model> model_;
  sensitivity::Reference reference_ = sensitivity::Reference::kBf16;
  bool fits_memory_ = true;
  bool by_gradients_ = false;
  std::int64_t params_ = 0;
};

}  // namespace optiq::convert
