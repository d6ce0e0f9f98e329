#include "optiq/adapters/adapter_tensors.h"

#include <fmt/format.h>

#include <span>
#include <string_view>

#include "optiq/base/error.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::quote;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kPeftTensors = "adapter_model.safetensors";
constexpr const char* kMlxTensors = "adapters.safetensors";
constexpr const char* kSettings = "optiq_lora_config.json";

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw CheckpointError(fmt::format("{}: {}", file.string(), what));
}

// What a tensor is, by the end of its name.
struct TensorKind {
  const char* end;
  enum Part { kA, kB, kMagnitude } part;
};

constexpr TensorKind kMlxKinds[] = {{".lora_a", TensorKind::kA},
                                    {".lora_b", TensorKind::kB},
                                    {".m", TensorKind::kMagnitude}};
constexpr TensorKind kPeftKinds[] = {
    {".lora_A.weight", TensorKind::kA},
    {".lora_B.weight", TensorKind::kB},
    {".lora_A.default.weight", TensorKind::kA},
    {".lora_B.default.weight", TensorKind::kB},
    {".lora_magnitude_vector", TensorKind::kMagnitude},
    {".lora_magnitude_vector.weight", TensorKind::kMagnitude},
    {".lora_magnitude_vector.default.weight", TensorKind::kMagnitude}};

std::map<std::string, LayerTensors> find_layers(const Checkpoint& tensors,
                                                const fs::path& file,
                                                std::span<const TensorKind> kinds,
                                                std::string_view prefix) {
  std::map<std::string, LayerTensors> layers;
  for (const std::string& name : tensors.names()) {
    const TensorKind* kind = nullptr;
    for (const TensorKind& k : kinds)
      if (name.ends_with(k.end)) kind = &k;
    if (!kind || !name.starts_with(prefix))
      fail(file, fmt::format("tensor {}: expected a LoRA matrix of a linear layer",
                             quote(name)));
    const std::string path =
        name.substr(prefix.size(),
                    name.size() - prefix.size() - std::string_view(kind->end).size());
    LayerTensors& layer = layers[path];
    std::string& place = kind->part == TensorKind::kA   ? layer.a
                         : kind->part == TensorKind::kB ? layer.b
                                                        : layer.magnitude;
    if (!place.empty())
      fail(file, fmt::format("tensors {} and {} are for the same layer", quote(place),
                             quote(name)));
    place = name;
  }
  if (layers.empty()) fail(file, "expected LoRA matrices, found no tensor");
  return layers;
}

fs::path tensor_file(const fs::path& directory, bool peft) {
  std::error_code ignored;
  const fs::path file = directory / (peft ? kPeftTensors : kMlxTensors);
  if (fs::exists(file, ignored)) return file;
  if (peft && fs::exists(directory / "adapter_model.bin", ignored))
    fail(directory,
         "adapter_model.bin is a pickle, which may run code; expected "
         "adapter_model.safetensors");
  fail(directory,
       fmt::format("expected {}, found no such file", file.filename().string()));
}

}  // namespace

int AdapterTensors::rank(const LayerTensors& layer) const {
  if (layer.a.empty()) return 0;
  const auto& shape = tensors.info(layer.a).shape;
  const std::size_t axis = peft ? 0 : 1;
  return axis < shape.size() ? static_cast<int>(shape[axis]) : 0;
}

AdapterTensors open_adapter(const fs::path& directory) {
  const fs::path config_file = directory / kConfig;
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    fail(directory, "expected an adapter's directory, found none");
  const nlohmann::json config = checkpoint::read_json_object(config_file);
  const bool is_peft = config.contains("peft_type");
  const fs::path file = tensor_file(directory, is_peft);
  AdapterTensors adapter{.file = file,
                         .tensors = Checkpoint::open_file(file),
                         .layers = {},
                         .peft = {},
                         .mlx = {},
                         .base_model = {}};
  if (is_peft) {
    adapter.peft.emplace(config_file);
    adapter.base_model = adapter.peft->base_model();
  } else {
    adapter.mlx = read_mlx_settings(config_file);
    if (config.contains("model") && config["model"].is_string())
      adapter.base_model = config["model"].get<std::string>();
  }
  adapter.layers = find_layers(adapter.tensors, file,
                               is_peft ? std::span<const TensorKind>(kPeftKinds)
                                       : std::span<const TensorKind>(kMlxKinds),
                               is_peft ? "base_model.model." : "");
  if (fs::exists(directory / kSettings, ignored))
    adapter.settings = checkpoint::read_json_object(directory / kSettings);
  return adapter;
}

}  // namespace optiq::adapters
