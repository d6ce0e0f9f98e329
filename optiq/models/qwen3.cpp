// Qwen3: llama with a norm on each query and key head (its config says so).
#include "optiq/models/registry.h"

namespace optiq::models {

std::unique_ptr<Model> build_qwen3(Weights& weights) {
  return build_decoder(weights, [&](int i) { return load_attention(weights, i); });
}

}  // namespace optiq::models
