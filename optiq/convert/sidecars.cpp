#include "optiq/convert/sidecars.h"

#include <fmt/format.h>

#include <algorithm>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/json_file.h"
#include "optiq/convert/curve.h"
#include "optiq/quantize/linear_weight.h"

namespace optiq::convert {

using nlohmann::json;
using sensitivity::FormatCost;
using sensitivity::LayerSensitivity;

namespace {
constexpr std::size_t kFileLimit = std::size_t{1} << 28;

json number_or_null(const std::optional<double>& value) {
  return value ? json(*value) : json();
}
}  // namespace

json to_json(const LayerSensitivity& layer) {
  json sensitivities = json::object(), formats = json::array();
  for (const FormatCost& cost : layer.formats) {
    sensitivities[std::to_string(cost.spec.bits)] = cost.kl;
    formats.push_back({{"mode", name(cost.spec.mode)},
                       {"bits", cost.spec.bits},
                       {"group_size", cost.spec.group_size},
                       {"bytes", cost.bytes},
                       {"kl", cost.kl},
                       {"kl_standard_error", cost.kl_error},
                       {"relative_weight_error", cost.weight_error}});
  }
  return {{"layer_name", layer.name},
          {"sensitivities", sensitivities},
          {"param_count", layer.params},
          {"metadata", {{"layer", layer.layer}, {"formats", formats}}}};
}

LayerSensitivity layer_from_json(const json& value) {
  LayerSensitivity layer{value.at("layer_name"),
                         value.at("metadata").at("layer"),
                         value.at("param_count"),
                         {}};
  for (const json& f : value.at("metadata").at("formats")) {
    const auto mode = quant_mode_from_name(f.at("mode").get<std::string>());
    if (!mode) throw CheckpointError("an unknown mode in saved sensitivities");
    layer.formats.push_back({{*mode, f.at("bits"), f.at("group_size")},
                             f.at("bytes"),
                             f.at("kl"),
                             f.at("kl_standard_error"),
                             f.at("relative_weight_error")});
  }
  return layer;
}

json to_json(const sensitivity::Sensitivities& sensitivities,
             const std::string& base_model, int group_size) {
  json layers = json::array(), bits = json::array();
  for (const LayerSensitivity& layer : sensitivities.layers) {
    layers.push_back(to_json(layer));
    for (const FormatCost& cost : layer.formats)
      if (std::ranges::find(bits, json(cost.spec.bits)) == bits.end())
        bits.push_back(cost.spec.bits);
  }
  return {{"base_model", base_model},
          {"candidate_bits", bits},
          {"group_size", group_size},
          {"metric", "kl_divergence_vs_reference"},
          {"reference", name(sensitivities.reference)},
          {"calibration_tokens", sensitivities.tokens},
          {"compensated", sensitivities.compensated},
          {"layers", layers}};
}

sensitivity::Sensitivities read_sensitivities(const std::filesystem::path& file,
                                              const std::vector<Matrix>& matrices,
                                              const std::vector<QuantSpec>& formats,
                                              const std::vector<QuantSpec>& others) {
  const json content = checkpoint::read_json_object(file, kFileLimit);
  std::unordered_map<std::string, LayerSensitivity> layers;
  sensitivity::Sensitivities result{"optiq", {}, {}, 0};
  try {
    for (const json& value : content.at("layers")) {
      LayerSensitivity layer = layer_from_json(value);
      std::string name = layer.name;
      layers.emplace(std::move(name), std::move(layer));
    }
    result.tokens = content.at("calibration_tokens");
    result.compensated = content.value("compensated", false);
  } catch (const json::exception&) {
    throw CheckpointError(file.string() + ": expected an optiq/sensitivity.json");
  }
  for (const Matrix& matrix : matrices) {
    const auto found = layers.find(matrix.path);
    if (found == layers.end())
      throw CheckpointError(fmt::format("{}: expected layer {}, it is missing",
                                        file.string(), matrix.path));
    LayerSensitivity layer = found->second;
    std::erase_if(layer.formats, [&](const FormatCost& cost) {
      return std::ranges::find(formats, cost.spec) == formats.end() &&
             std::ranges::find(others, cost.spec) == others.end();
    });
    for (const QuantSpec& spec : formats)
      if (quantize::fits(spec, static_cast<int>(matrix.K)) &&
          std::ranges::find(layer.formats, spec, &FormatCost::spec) ==
              layer.formats.end())
        throw CheckpointError(fmt::format("{}: layer {} was not measured at {}",
                                          file.string(), matrix.path, describe(spec)));
    result.layers.push_back(std::move(layer));
  }
  return result;
}

json metadata_json(const Options& options, const Result& result) {
  const char* method = options.method == Method::kOptiq    ? "optiq_mixed_precision"
                       : options.method == Method::kStatic ? "static_mixed_precision"
                                                           : "uniform";
  json per_layer = json::object();
  int widest = 0, narrowest = 99, n_wide = 0, n_narrow = 0;
  for (const LayerResult& layer : result.layers)
    if (layer.spec) {
      widest = std::max(widest, layer.spec->bits);
      narrowest = std::min(narrowest, layer.spec->bits);
    }
  for (const LayerResult& layer : result.layers) {
    if (!layer.spec) continue;
    n_wide += layer.spec->bits == widest;
    n_narrow += layer.spec->bits == narrowest;
    per_layer[layer.name] = {{"bits", layer.spec->bits},
                             {"group_size", layer.spec->group_size},
                             {"mode", name(layer.spec->mode)},
                             {"kl", layer.sensitivity}};
  }
  json metadata = {
      {"method", method},
      {"base_model", options.model_name},
      {"reference", name(result.reference)},
      {"achieved_bpw", result.bpw},
      {"n_high_bits", n_wide},
      {"n_low_bits", n_narrow},
      {"threshold", 0},
      {"per_layer", per_layer},
      {"bpw_disk", result.bpw_disk},
      {"kl_mean_uncompensated", number_or_null(result.kl_mean_uncompensated)},
      {"compensated", result.compensated},
      {"kl_mean_undistilled", number_or_null(result.kl_mean_undistilled)},
      {"allocation", result.chosen},
      {"kl_mean", number_or_null(result.kl_mean)},
      {"kl_p99", number_or_null(result.kl_p99)},
      {"curve", to_json(result.curve)}};
  if (options.target_size)
    metadata["target_size"] = *options.target_size;
  else
    metadata["target_bpw"] = options.target_bpw;
  return metadata;
}

SavedLayers::SavedLayers(std::filesystem::path output, json identity)
    : content_{{"identity", std::move(identity)}, {"layers", json::array()}} {
  if (!output.has_filename()) output = output.parent_path();
  path_ =
      output.parent_path() / ("." + output.filename().string() + ".sensitivity.json");
}

std::unordered_map<std::string, LayerSensitivity> SavedLayers::load() const {
  std::unordered_map<std::string, LayerSensitivity> layers;
  if (!std::filesystem::exists(path_)) return layers;
  const json saved = json::parse(read_file(path_, kFileLimit), nullptr, false);
  try {
    if (saved.at("identity") != content_.at("identity")) return layers;
    for (const json& value : saved.at("layers")) {
      LayerSensitivity layer = layer_from_json(value);
      std::string name = layer.name;
      layers.emplace(std::move(name), std::move(layer));
    }
  } catch (const json::exception&) {
    throw CheckpointError(path_.string() +
                          ": expected the layers of an interrupted run; remove the "
                          "file to measure anew");
  }
  return layers;
}

void SavedLayers::add(const LayerSensitivity& layer) {
  content_["layers"].push_back(to_json(layer));
  write_file_atomic(path_, content_.dump());
}

void SavedLayers::remove() const { std::filesystem::remove(path_); }

}  // namespace optiq::convert
