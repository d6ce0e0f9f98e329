// Llama: the plain decoder (Touvron et al. 2023; Llama 3 adds its RoPE scaling).
#include "optiq/models/registry.h"

namespace optiq::models {

std::unique_ptr<Model> build_llama(Weights& weights) {
  return build_decoder(weights, [&](int i) { return load_attention(weights, i); });
}

}  // namespace optiq::models
