// Qwen3 MoE: Qwen3 with sparse MLPs (its config says in which layers).
#include "optiq/models/registry.h"

namespace optiq::models {

std::unique_ptr<Model> build_qwen3_moe(Weights& weights) {
  return build_decoder(weights, [&](int i) { return load_attention(weights, i); });
}

}  // namespace optiq::models
