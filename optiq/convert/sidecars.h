// The files in optiq/ beside a converted model: what was measured, what was decided.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "optiq/convert/options.h"
#include "optiq/convert/plan.h"
#include "optiq/sensitivity/sensitivity.h"

namespace optiq::convert {

/// optiq/sensitivity.json. The keys are those of mlx-optiq 0.7.7; `metadata` of a layer
/// holds what it does not have (standard errors, bytes).
nlohmann::json to_json(const sensitivity::Sensitivities& sensitivities,
                       const std::string& base_model, int group_size);

/// One layer of an interrupted run and back.
nlohmann::json to_json(const sensitivity::LayerSensitivity& layer);
sensitivity::LayerSensitivity layer_from_json(const nlohmann::json& json);

/// The measured layers of an earlier run's optiq/sensitivity.json, in `formats` and in
/// those of `others` that it has.
///
/// Throws    CheckpointError if a layer or one of `formats` is not in it.
sensitivity::Sensitivities read_sensitivities(const std::filesystem::path& file,
                                              const std::vector<Matrix>& matrices,
                                              const std::vector<QuantSpec>& formats,
                                              const std::vector<QuantSpec>& others);

/// optiq/metadata.json: how each layer was decided.
nlohmann::json metadata_json(const Options& options, const Result& result);

/// Layers that an interrupted run has measured, kept beside the output as
/// `.<name>.sensitivity.json` until the conversion is done.
class SavedLayers {
 public:
  /// `identity` tells runs apart whose layers must not be mixed.
  SavedLayers(std::filesystem::path output, nlohmann::json identity);

  /// The layers of an earlier run of the same identity.
  std::unordered_map<std::string, sensitivity::LayerSensitivity> load() const;

  void add(const sensitivity::LayerSensitivity& layer);
  void remove() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  nlohmann::json content_;
};

}  // namespace optiq::convert
