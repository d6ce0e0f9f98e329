#include "optiq/adapters/load_adapter.h"

#include <fmt/format.h>

#include <atomic>
#include <optional>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/adapters/adapter_tensors.h"
#include "optiq/adapters/dora.h"
#include "optiq/adapters/module_names.h"
#include "optiq/base/error.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using checkpoint::quote;

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw CheckpointError(fmt::format("{}: {}", file.string(), what));
}

// The layers of the file by the model's modules.
std::map<const models::LinearModule*, std::string> match(const AdapterTensors& files,
                                                         models::Model& model) {
  const ModuleNames modules(model);
  std::map<const models::LinearModule*, std::string> matched;
  for (const auto& [path, layer] : files.layers) {
    const std::string& name = !layer.a.empty()   ? layer.a
                              : !layer.b.empty() ? layer.b
                                                 : layer.magnitude;
    const models::LinearModule* module = modules.find(path);
    if (!module)
      fail(files.file, fmt::format("tensor {}: the model has no linear layer {}",
                                   quote(name), quote(path)));
    const auto [place, is_new] = matched.try_emplace(module, path);
    if (!is_new)
      fail(files.file, fmt::format("{} and {} are the same layer of the model",
                                   quote(place->second), quote(path)));
  }
  return matched;
}

mx::array matrix(const checkpoint::Checkpoint& tensors, const fs::path& file,
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
  const AdapterTensors files = open_adapter(directory);
  const bool peft = files.peft.has_value();
  auto adapter = std::make_shared<LoadedAdapter>();
  adapter->directory = directory;
  adapter->identity = new_identity(directory);
  adapter->form = peft ? "peft" : "mlx";
  adapter->base_model = files.base_model;
  adapter->settings = files.settings;
  for (const auto& [module, path] : match(files, model)) {
    const LayerTensors& layer = files.layers.at(path);
    const int K = module->weight.input_dim(), N = module->weight.output_dim();
    std::optional<int> rank;
    if (peft) rank = files.peft->rank(path);
    const mx::array a =
        matrix(files.tensors, files.file, *module, layer.a, "lora_a", rank, K, peft);
    rank = a.shape(0);
    kernels::LowRank factors{
        a,
        matrix(files.tensors, files.file, *module, layer.b, "lora_b", rank, N, !peft),
        files.scale(path)};
    if (files.dora() != !layer.magnitude.empty())
      fail(files.file,
           fmt::format("{}: {}", quote(module->path),
                       files.dora() ? "expected the magnitudes of DoRA, found none"
                                    : "found magnitudes, but the config says no DoRA"));
    if (files.dora())
      factors.gain = dora_gain(module->weight, factors,
                               files.tensors.require(layer.magnitude, {N}));
    mx::eval(factors.a, factors.b);
    adapter->bytes += factors.a.nbytes() + factors.b.nbytes();
    adapter->modules.emplace(module->name, std::move(factors));
  }
  return adapter;
}

}  // namespace optiq::adapters
