// What a run needs to go on as if it had never stopped.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mlx/array.h"

namespace optiq::train {

namespace mx = mlx::core;

struct TrainingState {
  nlohmann::json about;  // steps, losses, and the options that must be the same
  std::vector<mx::array> values, first, second;  // the parameters and AdamW's moments
  std::vector<mx::array> best;  // values of the best evaluation, if any
};

/// Writes state.json and state.safetensors into a directory that exists. `names` are
/// the values'.
void write_state(const std::filesystem::path& directory, const TrainingState& state,
                 const std::vector<std::string>& names);

/// Throws    CheckpointError if the files are not there, or not for these values
TrainingState read_state(const std::filesystem::path& directory,
                         const std::vector<std::string>& names,
                         const std::vector<mx::array>& values);

}  // namespace optiq::train
