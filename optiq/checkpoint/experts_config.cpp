#include <fmt/format.h>

#include "optiq/checkpoint/config_parts.h"

namespace optiq::checkpoint {

void read_experts(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  ExpertsConfig& experts = config.experts;
  experts.n_experts =
      static_cast<int>(fields.integer_or("num_experts", defaults.n_experts, 1, 65536));
  experts.n_active =
      static_cast<int>(fields.integer_or("num_experts_per_tok", 8, 1, 65536));
  if (experts.n_active > experts.n_experts)
    fields.fail("num_experts_per_tok",
                fmt::format("at most num_experts, {}", experts.n_experts),
                std::to_string(experts.n_active));
  const int width = defaults.is_hybrid ? 512 : 768;
  experts.intermediate_size =
      static_cast<int>(fields.integer_or("moe_intermediate_size", width, 1, kMaxSize));
  const auto layers = static_cast<std::size_t>(config.num_hidden_layers);
  if (defaults.is_hybrid) {
    experts.shared_intermediate_size = static_cast<int>(
        fields.integer_or("shared_expert_intermediate_size", width, 1, kMaxSize));
    experts.layers.assign(layers, true);
    return;
  }
  experts.normalize = fields.boolean_or("norm_topk_prob", false);
  const auto step = static_cast<std::size_t>(
      fields.integer_or("decoder_sparse_step", 1, 1, kMaxLayers));
  for (std::size_t i = 0; i < layers; ++i)
    experts.layers.push_back((i + 1) % step == 0);
  for (const std::int64_t i : fields.integers("mlp_only_layers", 0, kMaxLayers))
    if (static_cast<std::size_t>(i) < layers)
      experts.layers[static_cast<std::size_t>(i)] = false;
}

}  // namespace optiq::checkpoint
