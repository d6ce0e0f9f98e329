#include "optiq/convert/inspect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/cache/kv_config.h"
#include "optiq/checkpoint/checkpoint.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/checkpoint/names.h"
#include "optiq/checkpoint/quantization_config.h"
#include "optiq/convert/curve.h"

namespace optiq::convert {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kSidecarLimit = std::size_t{1} << 28;

// Sensitivities by module path: at 4 bits where that was measured, else at the
// narrowest. Names of the source may lack or have the outer prefix, so the part from
// `layers.` on (or the last part) is the key.
std::string key_of(const std::string& path) {
  const auto at = path.find("layers.");
  if (at != std::string::npos) return path.substr(at);
  return path.substr(path.rfind('.') + 1);
}

std::map<std::string, double> read_sensitivities(const fs::path& directory) {
  std::map<std::string, double> values;
  const fs::path file = directory / "optiq" / "sensitivity.json";
  if (!fs::exists(file)) return values;
  const json content = checkpoint::read_json_object(file, kSidecarLimit);
  if (!content.contains("layers") || !content["layers"].is_array()) return values;
  for (const json& layer : content["layers"]) {
    if (!layer.is_object() || !layer.contains("sensitivities") ||
        !layer["sensitivities"].is_object() || layer["sensitivities"].empty() ||
        !layer.contains("layer_name") || !layer["layer_name"].is_string())
      continue;
    const json& by_bits = layer["sensitivities"];
    const json& value = by_bits.contains("4") ? by_bits["4"] : *by_bits.begin();
    if (value.is_number())
      values[key_of(layer["layer_name"].get<std::string>())] = value.get<double>();
  }
  return values;
}

// Embedding, blocks by number, head.
std::pair<int, std::string> walk_order(const std::string& path) {
  const auto at = path.find("layers.");
  if (at == std::string::npos) return {path.ends_with("lm_head") ? 1 << 30 : -1, path};
  return {std::atoi(path.c_str() + at + 7), path};
}

// {"4": 0.01, ...}; what is not of this form is left out.
std::map<int, double> by_bits(const json& layer, const char* key) {
  std::map<int, double> values;
  if (!layer.contains(key) || !layer[key].is_object()) return values;
  for (const auto& [bits, value] : layer[key].items())
    if (value.is_number()) values[std::atoi(bits.c_str())] = value.get<double>();
  return values;
}

std::vector<InspectedCache> read_caches(const fs::path& config) {
  std::vector<InspectedCache> caches;
  for (const auto& entry : cache::load_kv_config(config))
    caches.push_back({entry, {}, {}, {}});
  const fs::path file = config.parent_path() / "kv_sensitivity.json";
  if (!fs::exists(file)) return caches;
  for (const json& layer :
       checkpoint::parse_json_list(read_file(file, kSidecarLimit), file)) {
    if (!layer.is_object() || !layer.contains("layer_idx")) continue;
    for (InspectedCache& cache : caches) {
      if (layer["layer_idx"] != cache.entry.layer_idx) continue;
      cache.sensitivities = by_bits(layer, "sensitivities");
      cache.k_sensitivities = by_bits(layer, "k_sensitivities");
      cache.v_sensitivities = by_bits(layer, "v_sensitivities");
    }
  }
  return caches;
}

Decision read_decision(const fs::path& directory) {
  Decision decision;
  const fs::path file = directory / "optiq" / "metadata.json";
  if (!fs::exists(file)) return decision;
  const json content = checkpoint::read_json_object(file, kSidecarLimit);
  const auto text = [&](const char* key) {
    return content.contains(key) && content[key].is_string()
               ? content[key].get<std::string>()
               : std::string();
  };
  const auto number = [&](const char* key) {
    return content.contains(key) && content[key].is_number()
               ? std::optional<double>(content[key].get<double>())
               : std::nullopt;
  };
  decision.base_model = text("base_model");
  decision.allocation = text("allocation");
  decision.kl_mean = number("kl_mean");
  decision.kl_p99 = number("kl_p99");
  try {
    if (content.contains("curve")) decision.curve = curve_from_json(content["curve"]);
  } catch (const json::exception&) {
    throw CheckpointError(file.string() +
                          ": curve: expected points with bytes and divergences");
  }
  return decision;
}

std::vector<InspectedCache> find_caches(const fs::path& directory) {
  for (const fs::path& file :
       {directory / "kv_config.json", directory / "optiq" / "kv_config.json"})
    if (fs::exists(file)) return read_caches(file);
  return {};
}

}  // namespace

Inspection inspect(const fs::path& directory,
                   const std::optional<fs::path>& kv_config) {
  const auto source = checkpoint::Checkpoint::open(
      directory, {checkpoint::Residency::kMapped, /*check_finite=*/false});
  const auto quantization =
      checkpoint::parse_quantization(source.config(), directory / "config.json");
  const auto sensitivities = read_sensitivities(directory);

  Inspection result;
  result.decision = read_decision(directory);
  result.caches = kv_config ? read_caches(*kv_config) : find_caches(directory);
  double bits = 0, quantized_params = 0;
  for (const std::string& name : source.names()) {
    const checkpoint::TensorInfo& tensor = source.info(name);
    std::int64_t params = 1;
    for (std::int64_t n : tensor.shape) params *= n;
    if (name.ends_with(".scales") || name.ends_with(".biases")) continue;
    const bool of_experts = name.find(".switch_mlp.") != std::string::npos ||
                            name.find(".switch_glu.") != std::string::npos;
    const bool is_matrix =
        name.ends_with(".weight") && tensor.shape.size() == (of_experts ? 3 : 2);
    if (!is_matrix || checkpoint::role_of(name) != checkpoint::TensorRole::kText) {
      result.params += params;
      continue;
    }
    const std::string path = name.substr(0, name.size() - 7);
    InspectedLayer layer{path, std::nullopt, params,
                         static_cast<std::int64_t>(tensor.bytes), std::nullopt};
    const auto module = checkpoint::module_quantization(
        source, quantization ? &*quantization : nullptr, path);
    if (module) {
      layer.spec = module->spec;
      layer.params = module->rows * module->columns;
      for (const char* part : {".scales", ".biases"})
        if (const auto* info = source.find(path + part))
          layer.bytes += static_cast<std::int64_t>(info->bytes);
      bits +=
          static_cast<double>(module->spec.bits) * static_cast<double>(layer.params);
      quantized_params += static_cast<double>(layer.params);
    }
    if (const auto found = sensitivities.find(key_of(path));
        found != sensitivities.end())
      layer.sensitivity = found->second;
    result.params += layer.params;
    result.layers.push_back(std::move(layer));
  }
  std::ranges::sort(result.layers, {},
                    [](const InspectedLayer& l) { return walk_order(l.name); });
  for (const fs::path& file : source.files())
    result.bytes += static_cast<std::int64_t>(fs::file_size(file));
  result.bpw = quantized_params > 0 ? bits / quantized_params : 0;
  result.bpw_disk = result.params > 0 ? 8.0 * static_cast<double>(result.bytes) /
                                            static_cast<double>(result.params)
                                      : 0;
  return result;
}

}  // namespace optiq::convert
