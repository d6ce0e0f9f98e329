#include "optiq/train/training_state.h"

#include "mlx/transforms.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAbout = "state.json";
constexpr const char* kTensors = "state.safetensors";

// The four groups of tensors, each with a prefix of its own.
template <class State, class Visit>
void each_group(State& state, Visit&& visit) {
  visit("value/", state.values);
  visit("first/", state.first);
  visit("second/", state.second);
  visit("best/", state.best);
}

}  // namespace

void write_state(const fs::path& directory, const TrainingState& state,
                 const std::vector<std::string>& names) {
  std::vector<checkpoint::TensorEntry> entries;
  each_group(state, [&](const char* prefix, const std::vector<mx::array>& group) {
    for (std::size_t i = 0; i < group.size(); ++i)
      entries.push_back({prefix + names[i],
                         checkpoint::DataType::kF32,
                         {group[i].shape().begin(), group[i].shape().end()}});
  });
  checkpoint::SafetensorsWriter writer(directory / kTensors, entries, {});
  each_group(state, [&](const char* prefix, const std::vector<mx::array>& group) {
    for (std::size_t i = 0; i < group.size(); ++i)
      writer.write(prefix + names[i],
                   std::as_bytes(std::span(group[i].data<float>(), group[i].size())));
  });
  writer.finish();
  write_file_atomic(directory / kAbout, state.about.dump(1) + "\n");
}

TrainingState read_state(const fs::path& directory,
                         const std::vector<std::string>& names,
                         const std::vector<mx::array>& values) {
  TrainingState state;
  state.about = checkpoint::read_json_object(directory / kAbout);
  const auto tensors = checkpoint::Checkpoint::open_file(directory / kTensors);
  const bool has_best = tensors.contains("best/" + names[0]);
  each_group(state, [&](const std::string& prefix, std::vector<mx::array>& group) {
    if (prefix == "best/" && !has_best) return;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const mx::array stored = tensors.require(
          prefix + names[i], std::vector<std::int64_t>(values[i].shape().begin(),
                                                       values[i].shape().end()));
      // A copy of its own: moments are changed in place.
      group.push_back(mx::array(stored.data<float>(), stored.shape()));
    }
  });
  return state;
}

}  // namespace optiq::train
