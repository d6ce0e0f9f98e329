// Self-attention of llama-like models, with the variations that our models have.
#pragma once
#include <optional>

#include "optiq/models/layers/layer.h"

namespace optiq::models {

struct SelfAttention {
  LinearModule
      q;  // with an output gate: per head, D rows of queries, then D of the gate
  LinearModule k;
  LinearModule v;
  LinearModule o;
  std::optional<mx::array> q_norm;  // [D] float32
  std::optional<mx::array> k_norm;
  mx::array inverse_frequency;  // [rotary_dim / 2]
  float rope_scale = 1.0f;
  float eps = 1e-6f;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int window = 0;  // 0: sees everything before it
  bool gated = false;

  /// Shapes    x, residual [T, hidden_size] -> residual + attention(x)
  mx::array operator()(const mx::array& x, const mx::array& residual,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
