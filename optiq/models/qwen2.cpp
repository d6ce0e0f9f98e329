// Qwen2: llama with biases on queries, keys and values (its config says so).
#include "optiq/models/registry.h"

namespace optiq::models {

std::unique_ptr<Model> build_qwen2(Weights& weights) {
  return build_decoder(weights, [&](int i) { return load_attention(weights, i); });
}

}  // namespace optiq::models
