// Mistral: llama with a window over all layers, where its config has one.
#include "optiq/models/registry.h"

namespace optiq::models {

std::unique_ptr<Model> build_mistral(Weights& weights) {
  return build_decoder(weights, [&](int i) { return load_attention(weights, i); });
}

}  // namespace optiq::models
