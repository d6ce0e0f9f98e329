#include "optiq/adapters/peft_form.h"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

#include "optiq/base/error.h"
#include "optiq/base/file.h"
#include "optiq/checkpoint/fields.h"
#include "optiq/checkpoint/json_file.h"

namespace optiq::adapters {
namespace {

namespace fs = std::filesystem;
using checkpoint::Fields;

constexpr int kMostRank = 4096;

// Settings that change what an adapter computes in ways that optiq does not: to pass
// over one would be to answer wrongly.
void refuse_other_kinds(const Fields& fields) {
  if (const std::string type = fields.text_or("peft_type", "LORA"); type != "LORA")
    fields.fail("peft_type", "LORA", "\"" + type + "\"");
  if (const std::string bias = fields.text_or("bias", "none"); bias != "none")
    fields.fail("bias", "none (trained biases are not supported)", "\"" + bias + "\"");
  for (const char* key : {"fan_in_fan_out", "lora_bias", "use_qalora"})
    if (fields.boolean_or(key, false)) fields.fail(key, "false", "true");
  for (const char* key : {"modules_to_save", "layer_replication", "target_parameters",
                          "trainable_token_indices", "alora_invocation_tokens"}) {
    const nlohmann::json* value = fields.find(key);
    if (value && !value->empty())
      fields.fail(key, "null (not supported)", value->dump().substr(0, 60));
  }
}

}  // namespace

PeftScales::PeftScales(const fs::path& config_file) {
  const nlohmann::json config = checkpoint::read_json_object(config_file);
  const Fields fields(config, config_file);
  refuse_other_kinds(fields);
  rank_ = static_cast<double>(fields.integer("r", 1, kMostRank));
  alpha_ = fields.number("lora_alpha", -1e6, 1e6);
  rslora_ = fields.boolean_or("use_rslora", false);
  dora_ = fields.boolean_or("use_dora", false);
  base_model_ = fields.text_or("base_model_name_or_path", "");
  // Read once more for the order of the keys, which decides.
  const auto ordered =
      nlohmann::ordered_json::parse(read_file(config_file, std::size_t{64} << 20));
  const auto rows_of = [&](const char* key, double least, double most) {
    std::vector<Row> rows;
    if (!fields.object(key)) return rows;
    for (const auto& [pattern, json] : ordered.at(key).items()) {
      const nlohmann::ordered_json& value = json;
      const double number = value.is_number() ? value.get<double>() : least - 1;
      if (number < least || number > most)
        fields.fail(fmt::format("{}.{}", key, pattern),
                    fmt::format("a number from {} to {}", least, most), value.dump());
      try {
        rows.push_back(
            {text::Pattern(fmt::format("^(?:.*\\.)?(?:{})$", pattern)), number});
      } catch (const std::invalid_argument& error) {
        fields.fail(key, "regular expressions", error.what());
      }
    }
    return rows;
  };
  ranks_ = rows_of("rank_pattern", 1, kMostRank);
  alphas_ = rows_of("alpha_pattern", -1e6, 1e6);
}

double PeftScales::choose(const std::vector<Row>& rows, std::string_view path,
                          double otherwise) {
  for (const Row& row : rows)
    if (row.pattern.matches(path)) return row.value;
  return otherwise;
}

int PeftScales::rank(std::string_view path) const {
  return static_cast<int>(choose(ranks_, path, rank_));
}

float PeftScales::scale(std::string_view path) const {
  const double r = rank(path), alpha = choose(alphas_, path, alpha_);
  return static_cast<float>(alpha / (rslora_ ? std::sqrt(r) : r));
}

}  // namespace optiq::adapters
