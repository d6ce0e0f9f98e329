#include "optiq/adapters/load_adapter.h"

#include <fmt/format.h>

#include <atomic>
#include <optional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/dora.h"
#include "optiq/adapters/mlx_form.h"
#include "optiq/adapters/module_names.h"
#include "optiq/adapters/peft_form.h"
#include "optiq/base/error.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
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

// The names of one module's tensors.
struct Parts {
  std::string path;  // as the file has it, in the base model
  std::string a, b, magnitude;
};

std::map<const models::LinearModule*, Parts> find_parts(
    const Checkpoint& tensors, const fs::path& file, models::Model& model,
    std::span<const TensorKind> kinds, std::string_view prefix) {
  const ModuleNames modules(model);
  std::map<const models::LinearModule*, Parts> all;
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
    const models::LinearModule* module = modules.find(path);
    if (!module)
      fail(file, fmt::format("tensor {}: the model has no linear layer {}", quote(name),
                             quote(path)));
    Parts& parts = all[module];
    parts.path = path;
    std::string& place = kind->part == TensorKind::kA   ? parts.a
                         : kind->part == TensorKind::kB ? parts.b
                                                        : parts.magnitude;
    if (!place.empty())
      fail(file, fmt::format("tensors {} and {} are for the same layer", quote(place),
                             quote(name)));
    place = name;
  }
  if (all.empty()) fail(file, "expected LoRA matrices, found no tensor");
  return all;
}

mx::array matrix(const Checkpoint& tensors, const fs::path& file,
                 const models::LinearModule& module, const std::string& name,
                 const char* which, std::optional<int> rank, int width,
                 bool rank_first) {
  if (name.empty()) fail(file, fmt::format("{} has no {}", quote(module.path), which));
  const auto& info = tensors.info(name);
  const std::size_t rank_axis = rank_first ? 0 : 1;
  const auto& shape = info.shape;
  const bool fits = shape.size() == 2 && shape[rank_axis] > 0 &&
                    shape[1 - rank_axis] == width &&
                    (!rank || shape[rank_axis] == *rank);
  if (!fits) {
    const std::string r = rank ? std::to_string(*rank) : "rank";
    fail(file, fmt::format("tensor {}: expected [{}, {}], found {}", quote(name),
                           rank_first ? r : std::to_string(width),
                           rank_first ? std::to_string(width) : r,
                           checkpoint::describe(info.dtype, shape)));
  }
  mx::array value = tensors.tensor(name);
  if (!mx::issubdtype(value.dtype(), mx::floating) || value.dtype() == mx::float64)
    fail(file, fmt::format("tensor {}: expected f32, f16 or bf16, found {}",
                           quote(name), checkpoint::describe(info.dtype, shape)));
  return rank_first ? value : mx::contiguous(mx::transpose(value));
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

std::string new_identity(const fs::path& directory) {
  static std::atomic<std::uint64_t> loads = 0;
  return fmt::format("{}#{}", directory.string(), ++loads);
}

}  // namespace

bool LoadedAdapter::is_dora() const {
  for (const auto& [name, factors] : modules)
    if (factors.gain) return true;
  return false;
}

std::shared_ptr<const LoadedAdapter> load_adapter(const fs::path& directory,
                                                  models::Model& model) {
  const fs::path config_file = directory / kConfig;
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    fail(directory, "expected an adapter's directory, found none");
  const nlohmann::json config = checkpoint::read_json_object(config_file);
  const bool peft = config.contains("peft_type");
  const fs::path file = tensor_file(directory, peft);
  const Checkpoint tensors = Checkpoint::open_file(file);

  std::optional<PeftScales> scales;
  MlxSettings mlx;
  if (peft)
    scales.emplace(config_file);
  else
    mlx = read_mlx_settings(config_file);
  const bool dora = peft ? scales->dora() : mlx.dora;

  auto adapter = std::make_shared<LoadedAdapter>();
  adapter->directory = directory;
  adapter->identity = new_identity(directory);
  adapter->form = peft ? "peft" : "mlx";
  adapter->base_model = peft ? scales->base_model()
                             : (config.contains("model") && config["model"].is_string()
                                    ? config["model"].get<std::string>()
                                    : "");
  if (fs::exists(directory / kSettings, ignored))
    adapter->settings = checkpoint::read_json_object(directory / kSettings);

  const auto all = find_parts(tensors, file, model,
                              peft ? std::span<const TensorKind>(kPeftKinds)
                                   : std::span<const TensorKind>(kMlxKinds),
                              peft ? "base_model.model." : "");
  for (const auto& [module, parts] : all) {
    const int K = module->weight.input_dim(), N = module->weight.output_dim();
    std::optional<int> rank;
    if (peft) rank = scales->rank(parts.path);
    const mx::array a =
        matrix(tensors, file, *module, parts.a, "lora_a", rank, K, peft);
    rank = a.shape(0);
    const mx::array b_stored =
        matrix(tensors, file, *module, parts.b, "lora_b", rank, N, !peft);
    kernels::LowRank factors{a, b_stored, peft ? scales->scale(parts.path) : mlx.scale};
    if (dora != !parts.magnitude.empty())
      fail(file, fmt::format("{}: {}", quote(module->path),
                             dora ? "expected the magnitudes of DoRA, found none"
                                  : "found magnitudes, but the config says no DoRA"));
    if (dora)
      factors.gain =
          dora_gain(module->weight, factors, tensors.require(parts.magnitude, {N}));
    mx::eval(factors.a, factors.b);
    adapter->bytes += factors.a.nbytes() + factors.b.nbytes();
    adapter->modules.emplace(module->name, std::move(factors));
  }
  return adapter;
}

}  // namespace optiq::adapters
