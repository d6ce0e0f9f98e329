#include "optiq/checkpoint/quantization_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "optiq/base/error.h"
#include "optiq/checkpoint/fields.h"
#include "optiq/checkpoint/quote.h"

namespace optiq::checkpoint {
namespace {

QuantMode mode_of(const Fields& fields) {
  const std::string text = fields.text_or("mode", name(QuantMode::kAffine));
  if (const auto mode = quant_mode_from_name(text)) return *mode;
  std::vector<std::string> known;
  for (const QuantModeInfo& row : quant_modes()) known.push_back(row.name);
  fields.fail("mode", fmt::format("one of {}", fmt::join(known, ", ")));
}

// What an entry leaves out has the default of its mode, not of the whole model: so
// mlx-lm reads it, and its MoE routers rely on it.
QuantSpec spec_of(const Fields& fields) {
  QuantSpec spec;
  spec.mode = mode_of(fields);
  const QuantModeInfo& row = info(spec.mode);
  const bool is_affine = spec.mode == QuantMode::kAffine;
  spec.bits = static_cast<int>(
      fields.integer_or("bits", is_affine ? 4 : row.bits.front(), 1, 64));
  spec.group_size = static_cast<int>(fields.integer_or(
      "group_size", is_affine ? 64 : row.group_sizes.front(), 1, 4096));
  if (!is_supported(spec)) {
    const bool bad_bits =
        std::find(row.bits.begin(), row.bits.end(), spec.bits) == row.bits.end();
    fields.fail(
        bad_bits ? "bits" : "group_size",
        fmt::format("one of {} for mode {}",
                    fmt::join(bad_bits ? row.bits : row.group_sizes, ", "), row.name),
        std::to_string(bad_bits ? spec.bits : spec.group_size));
  }
  return spec;
}

// The quantization object of MLX or of somebody else.
std::optional<Fields> find_quantization(const Fields& top) {
  for (const char* key : {"quantization", "quantization_config"})
    if (auto found = top.object(key)) return found;
  if (const auto text = top.object("text_config"))
    for (const char* key : {"quantization", "quantization_config"})
      if (auto found = text->object(key)) return found;
  return std::nullopt;
}

nlohmann::json to_json(const QuantSpec& spec) {
  return {
      {"bits", spec.bits}, {"group_size", spec.group_size}, {"mode", name(spec.mode)}};
}

}  // namespace

std::optional<PackedConfig> packed_config(const nlohmann::json& config,
                                          const std::filesystem::path& file) {
  const std::optional<Fields> fields = find_quantization(Fields(config, file));
  return fields ? parse_packed(*fields) : std::nullopt;
}

std::optional<QuantSpec> Quantization::lookup(std::string_view module_path) const {
  const auto found = overrides.find(module_path);
  return found == overrides.end() ? std::optional(defaults) : found->second;
}

nlohmann::json Quantization::to_json() const {
  nlohmann::json json = checkpoint::to_json(defaults);
  for (const auto& [path, spec] : overrides)
    json[path] = spec ? checkpoint::to_json(*spec) : nlohmann::json(false);
  return json;
}

std::optional<Quantization> parse_quantization(const nlohmann::json& config,
                                               const std::filesystem::path& file) {
  const std::optional<Fields> fields = find_quantization(Fields(config, file));
  if (!fields || fields->json().empty()) return std::nullopt;
  if (fields->has("quant_method")) {
    // Checkpoint shows these in MLX's format or in float (packed_tensors.h,
    // scaled_tensors.h).
    if (const auto packed = parse_packed(*fields))
      return packed->has_mlx_form() ? std::optional(Quantization{packed->spec, {}})
                                    : std::nullopt;
    const std::string method = fields->text_or("quant_method", "");
    if (method == "fp8" || (method == "compressed-tensors" &&
                            fields->text_or("format", "") == "float-quantized"))
      return std::nullopt;
    fields->fail("quant_method",
                 "a checkpoint quantized by MLX, GPTQ, AWQ, compressed-tensors "
                 "(pack-quantized, mxfp4-pack-quantized, float-quantized) or to fp8, "
                 "or one that is not quantized");
  }
  for (const char* key : {"group_size", "bits"})
    if (!fields->has(key)) fields->fail(key, "a whole number");
  Quantization quantization;
  quantization.defaults = spec_of(*fields);
  for (const auto& [path, value] : fields->json().items()) {
    if (value.is_boolean()) {
      // `true` is the default of mlx-lm's quantize(): the spec of the whole model.
      quantization.overrides[path] =
          value.get<bool>() ? std::optional(quantization.defaults) : std::nullopt;
    } else if (value.is_object()) {
      quantization.overrides[path] = spec_of(*fields->object(path));
    }
  }
  return quantization;
}

}  // namespace optiq::checkpoint
