#include "optiq/adapters/write_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/safetensors.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
using checkpoint::DataType;
using Json = nlohmann::ordered_json;

// One adapted module, in the order of the model.
struct Row {
  const models::LinearModule* module;
  const kernels::LowRank* factors;
  std::string inner;  // self_attn.q_proj
};

std::vector<Row> rows_of(models::Model& model, const models::Adapter& adapter) {
  std::vector<Row> rows;
  for (const models::LinearModule* module : model.linears())
    if (const kernels::LowRank* factors = adapter.find(module->name))
      rows.push_back(
          {module, factors, module->name.substr(module->name.find('.', 7) + 1)});
  return rows;
}

// The path of a module in the model that mlx-lm, or transformers, makes of it.
std::string path_for(const models::Model& model, const models::LinearModule& module,
                     bool mlx) {
  const std::string& path = module.path;
  const std::string prefix = path.substr(0, path.size() - module.name.size());
  if (mlx && model.config().architecture.starts_with("qwen3_5"))
    return "language_model.model." + module.name;
  if (!mlx && prefix == "language_model.model.")
    return (model.config().has_vision ? "model.language_model." : "model.") +
           module.name;
  return path;
}

struct Tensor {
  std::string name;
  mx::array value;
};

void write_tensors(const fs::path& file, const std::vector<Tensor>& tensors) {
  std::vector<checkpoint::TensorEntry> entries;
  for (const Tensor& t : tensors)
    entries.push_back(
        {t.name, DataType::kF32, {t.value.shape().begin(), t.value.shape().end()}});
  checkpoint::SafetensorsWriter writer(file, entries, {{"format", "pt"}});
  for (const Tensor& t : tensors) {
    const mx::array flat = mx::contiguous(mx::astype(t.value, mx::float32));
    mx::eval(flat);
    writer.write(t.name, std::as_bytes(std::span(flat.data<float>(), flat.size())));
  }
  writer.finish();
}

mx::array padded(const mx::array& x, int rows) {
  const mx::array f = mx::astype(x, mx::float32);
  if (x.shape(0) == rows) return f;
  return mx::concatenate({f, mx::zeros({rows - x.shape(0), x.shape(1)})}, 0);
}

std::vector<Tensor> mlx_tensors(const models::Model& model,
                                const std::vector<Row>& rows, const AdapterFiles& files,
                                int rank, float scale) {
  std::vector<Tensor> tensors;
  for (const Row& row : rows) {
    const std::string path = path_for(model, *row.module, true);
    tensors.push_back({path + ".lora_a", mx::transpose(padded(row.factors->a, rank))});
    tensors.push_back({path + ".lora_b",
                       padded(row.factors->b, rank) * (row.factors->scale / scale)});
    if (const auto at = files.magnitudes.find(row.module->name);
        at != files.magnitudes.end())
      tensors.push_back({path + ".m", at->second});
  }
  return tensors;
}

std::vector<Tensor> peft_tensors(const models::Model& model,
                                 const std::vector<Row>& rows,
                                 const AdapterFiles& files) {
  std::vector<Tensor> tensors;
  for (const Row& row : rows) {
    const std::string path = "base_model.model." + path_for(model, *row.module, false);
    tensors.push_back({path + ".lora_A.weight", row.factors->a});
    tensors.push_back({path + ".lora_B.weight", mx::transpose(row.factors->b)});
    if (const auto at = files.magnitudes.find(row.module->name);
        at != files.magnitudes.end())
      tensors.push_back({path + ".lora_magnitude_vector", at->second});
  }
  return tensors;
}

std::string escaped(std::string_view path) {
  std::string pattern;
  for (const char c : path) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

// What most modules have is said once, the rest by pattern.
template <class Value, class ValueOf>
Value most_common(const std::vector<Row>& rows, ValueOf value_of) {
  std::map<Value, int> counts;
  for (const Row& row : rows) ++counts[value_of(row)];
  return std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; })
      ->first;
}

Json config_of(models::Model& model, const std::vector<Row>& rows,
               const AdapterFiles& files, int mlx_rank, float mlx_scale) {
  const auto rank_of = [](const Row& row) { return row.factors->rank(); };
  const auto alpha_of = [&](const Row& row) {
    // Of a float that came from a division: 16.000001 is 16.
    const double alpha = static_cast<double>(row.factors->scale) * rank_of(row);
    const double whole = std::round(alpha);
    return std::abs(alpha - whole) < 1e-5 * std::abs(alpha) ? whole : alpha;
  };
  const bool dora = !files.magnitudes.empty();
  const int rank = most_common<int>(rows, rank_of);
  const double alpha = most_common<double>(rows, alpha_of);
  Json rank_pattern = Json::object(), alpha_pattern = Json::object();
  Json applied = Json::object(), targets = Json::array(), keys = Json::array();
  std::map<std::string, int> layers_with;
  int first_layer = model.n_layers();
  for (const Row& row : rows) {
    const std::string path = path_for(model, *row.module, false);
    if (rank_of(row) != rank) rank_pattern[escaped(path)] = rank_of(row);
    if (alpha_of(row) != alpha) alpha_pattern[escaped(path)] = alpha_of(row);
    applied[row.module->path] = rank_of(row);
    ++layers_with[row.inner];
    first_layer = std::min(first_layer, row.module->layer);
  }
  // A name stands for all layers that have such a module; else each path is listed.
  std::map<std::string, int> layers_of;
  for (const models::LinearModule* module : model.linears())
    if (module->layer >= 0 && module->layer < model.n_layers())
      ++layers_of[module->name.substr(module->name.find('.', 7) + 1)];
  std::set<std::string> names;
  for (const Row& row : rows)
    names.insert(layers_with[row.inner] == layers_of[row.inner]
                     ? row.inner.substr(row.inner.rfind('.') + 1)
                     : path_for(model, *row.module, false));
  for (const std::string& name : names) targets.push_back(name);
  for (const auto& [inner, n] : layers_with) keys.push_back(inner);

  Json config;
  config["fine_tune_type"] = dora ? "dora" : "lora";
  config["model"] = files.base_model;
  config["num_layers"] = model.n_layers() - first_layer;
  config["lora_parameters"] = {{"rank", mlx_rank},
                               {"scale", mlx_scale},
                               {"dropout", files.dropout},
                               {"keys", keys}};
  config["peft_type"] = "LORA";
  config["task_type"] = "CAUSAL_LM";
  config["base_model_name_or_path"] = files.base_model;
  config["r"] = rank;
  config["lora_alpha"] = alpha;
  config["lora_dropout"] = files.dropout;
  config["rank_pattern"] = rank_pattern;
  config["alpha_pattern"] = alpha_pattern;
  config["target_modules"] = targets;
  config["use_rslora"] = false;
  config["use_dora"] = dora;
  config["bias"] = "none";
  config["fan_in_fan_out"] = false;
  config["inference_mode"] = true;
  config["init_lora_weights"] = true;
  config["modules_to_save"] = nullptr;
  config["optiq"] = {{"rank_scaling", files.settings.value("rank_scaling", "constant")},
                     {"applied_ranks", applied}};
  return config;
}

}  // namespace

void write_adapter(const fs::path& directory, models::Model& model,
                   const AdapterFiles& files) {
  const std::vector<Row> rows = rows_of(model, *files.adapter);
  int rank = 0;
  for (const Row& row : rows) rank = std::max(rank, row.factors->rank());
  const float scale =
      most_common<float>(rows, [](const Row& row) { return row.factors->scale; });
  write_tensors(directory / "adapters.safetensors",
                mlx_tensors(model, rows, files, rank, scale));
  write_tensors(directory / "adapter_model.safetensors",
                peft_tensors(model, rows, files));
  const Json config = config_of(model, rows, files, rank, scale);
  write_file_atomic(directory / "adapter_config.json", config.dump(2) + "\n");
  nlohmann::ordered_json settings = files.settings;
  settings["applied_ranks"] = config["optiq"]["applied_ranks"];
  settings["source_model"] = files.base_model;
  write_file_atomic(directory / "optiq_lora_config.json", settings.dump(2) + "\n");
}

}  // namespace optiq::adapters
