#include "optiq/checkpoint/packed_config.h"

#include <algorithm>
#include <initializer_list>
#include <string>

namespace optiq::checkpoint {
namespace {

int bits_of(const Fields& fields, const char* key, std::initializer_list<int> known) {
  const auto bits = static_cast<int>(fields.integer(key, 1, 16));
  if (std::ranges::find(known, bits) == known.end()) {
    std::string list;
    for (const int width : known)
      list += (list.empty() ? "" : ", ") + std::to_string(width);
    fields.fail(key, "one of " + list, std::to_string(bits));
  }
  return bits;
}

// -1 (or nothing, where that is allowed) stands for whole rows.
int group_size_of(const Fields& fields, const char* key) {
  return static_cast<int>(
      std::max<std::int64_t>(fields.integer_or(key, -1, -1, 1 << 20), 0));
}

PackedConfig gptq(const Fields& fields) {
  PackedConfig config{PackedForm::kGptq, {}};
  config.spec.bits = bits_of(fields, "bits", {2, 3, 4, 8});
  config.spec.group_size = group_size_of(fields, "group_size");
  const std::string form = fields.text_or("checkpoint_format", "gptq");
  if (form != "gptq" && form != "gptq_v2")
    fields.fail("checkpoint_format", "gptq or gptq_v2", form);
  config.zero_offset = form == "gptq" ? 1 : 0;
  config.is_ordered = fields.boolean_or("desc_act", false);
  return config;
}

PackedConfig awq(const Fields& fields) {
  PackedConfig config{PackedForm::kAwq, {}};
  config.spec.bits = bits_of(fields, fields.has("w_bit") ? "w_bit" : "bits", {4});
  config.spec.group_size =
      group_size_of(fields, fields.has("q_group_size") ? "q_group_size" : "group_size");
  const std::string version = fields.text_or("version", "gemm");
  if (version != "gemm" && version != "GEMM") fields.fail("version", "gemm", version);
  return config;
}

PackedConfig compressed(const Fields& fields, bool is_mxfp4) {
  PackedConfig config{PackedForm::kCompressed, {}};
  if (is_mxfp4) {
    config.spec = {QuantMode::kMxfp4, 4, 32};
    return config;
  }
  const auto groups = fields.object("config_groups");
  if (!groups || groups->json().empty())
    fields.fail("config_groups", "an object with a group of layers");
  // The shapes tell apart what further groups have.
  const auto first = groups->object(groups->json().begin().key());
  const auto weights = first ? first->object("weights") : std::nullopt;
  if (!weights) fields.fail("config_groups", "a group with weights");
  if (const std::string type = weights->text_or("type", "int"); type != "int")
    weights->fail("type", "int", type);
  config.spec.bits = bits_of(*weights, "num_bits", {2, 3, 4, 5, 6, 8});
  config.spec.group_size = group_size_of(*weights, "group_size");
  const std::string order = weights->text_or("actorder", "none");
  config.is_ordered = order == "group" || order == "dynamic";
  return config;
}

}  // namespace

std::optional<PackedConfig> parse_packed(const Fields& quantization) {
  if (!quantization.has("quant_method")) return std::nullopt;
  const std::string method = quantization.text("quant_method");
  if (method == "gptq") return gptq(quantization);
  if (method == "awq") return awq(quantization);
  if (method != "compressed-tensors") return std::nullopt;
  const std::string format = quantization.text_or("format", "");
  if (format != "pack-quantized" && format != "mxfp4-pack-quantized")
    return std::nullopt;
  return compressed(quantization, format == "mxfp4-pack-quantized");
}

}  // namespace optiq::checkpoint
