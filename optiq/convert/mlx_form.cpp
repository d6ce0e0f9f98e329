#include "optiq/convert/mlx_form.h"

#include <map>
#include <utility>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace optiq::convert {
namespace {

namespace mx = mlx::core;
using nlohmann::json;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() &&
         text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The spec that most matrices have is the default; the others are entries of their own.
QuantSpec most_common(const Plan& plan) {
  std::map<std::pair<int, int>, std::pair<int, QuantSpec>> counts;
  std::pair<int, QuantSpec> best{0, {}};
  for (const auto& [path, spec] : plan) {
    if (!spec) continue;
    auto& entry = counts[{spec->bits, spec->group_size}];
    entry = {entry.first + 1, *spec};
    if (entry.first > best.first) best = entry;
  }
  return best.second;
}

json to_json(const QuantSpec& spec) {
  return {
      {"group_size", spec.group_size}, {"bits", spec.bits}, {"mode", name(spec.mode)}};
}

}  // namespace

MlxForm::MlxForm(const checkpoint::Checkpoint& source)
    : source_(source),
      config_(checkpoint::model_config(source)),
      names_(checkpoint::find_text_names(source)),
      mlx_form_(checkpoint::is_mlx_form(source)),
      is_qwen35_(config_.architecture.starts_with("qwen3_5")),
      nested_(is_qwen35_ || config_.raw.contains("text_config")) {
  for (const std::string& name : source.names()) {
    if (checkpoint::role_of(name) != checkpoint::TensorRole::kText) continue;
    if (config_.tie_word_embeddings && name.starts_with(names_.lm_head + ".") &&
        !names_.lm_head.empty())
      continue;  // a tied head is the embedding
    tensors_.push_back(name);
  }
}

std::string MlxForm::written_name(const std::string& source_name) const {
  const std::string outer = nested_ ? "language_model." : "";
  if (!names_.lm_head.empty() && source_name.starts_with(names_.lm_head))
    return outer + "lm_head" + source_name.substr(names_.lm_head.size());
  return outer + "model." + source_name.substr(names_.model.size());
}

bool MlxForm::is_norm_less_one(const std::string& source_name) const {
  if (!is_qwen35_ || mlx_form_) return false;
  for (const char* end : {".input_layernorm.weight", ".post_attention_layernorm.weight",
                          ".q_norm.weight", ".k_norm.weight"})
    if (ends_with(source_name, end)) return true;
  return source_name == names_.model + "norm.weight";
}

mx::array MlxForm::written_tensor(const std::string& source_name) const {
  mx::array tensor = source_.tensor(source_name);
  if (is_norm_less_one(source_name))
    tensor = mx::astype(mx::astype(tensor, mx::float32) + 1.0f, tensor.dtype());
  if (is_qwen35_ && !mlx_form_ && ends_with(source_name, ".conv1d.weight"))
    tensor = mx::contiguous(mx::swapaxes(tensor, 1, 2));
  mx::eval(tensor);
  return tensor;
}

json MlxForm::written_config(const Plan& plan) const {
  json config = source_.config();
  config.erase("quantization");
  config.erase("quantization_config");
  if (is_qwen35_ && !config.contains("text_config")) {
    // mlx-lm loads `qwen3_5` with a text_config and does not know `qwen3_5_text`.
    json text = config;
    const bool sparse = config_.experts.n_experts > 0;
    config = {{"model_type", config_.architecture},
              {"architectures",
               {sparse ? "Qwen3_5MoeForConditionalGeneration"
                       : "Qwen3_5ForConditionalGeneration"}},
              {"tie_word_embeddings", config_.tie_word_embeddings},
              {"text_config", std::move(text)}};
    for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id", "dtype"})
      if (config["text_config"].contains(key)) config[key] = config["text_config"][key];
  }
  if (is_qwen35_ && config["text_config"].contains("mtp_num_hidden_layers"))
    config["text_config"]["mtp_num_hidden_layers"] = 0;  // its tensors are left out

  if (config_.architecture == "gemma4") {
    // transformers 5.17 writes these by layer, which mlx-lm passes over.
    json& text = config.contains("text_config") ? config["text_config"] : config;
    text["global_head_dim"] = config_.gemma.global_head_dim;
    if (config_.gemma.attention_k_eq_v)
      text["num_global_key_value_heads"] = config_.gemma.n_global_kv_heads;
  }

  const QuantSpec common = most_common(plan);
  json quantization = to_json(common);
  for (const auto& [path, spec] : plan) {
    if (!spec)
      quantization[written_name(path)] = false;
    else if (!(*spec == common))
      quantization[written_name(path)] = to_json(*spec);
  }
  config["quantization"] = quantization;
  config["quantization_config"] = quantization;
  return config;
}

}  // namespace optiq::convert
