// The linear-attention mixer of Qwen3.5: convolution, gated delta rule, gated norm.
#pragma once
#include "optiq/models/layers/layer.h"

namespace optiq::models {

struct GatedDeltaNet {
  LinearModule in_qkv;
  LinearModule in_z;
  LinearModule in_b;
  LinearModule in_a;
  LinearModule out;
  mx::array conv;     // [channels, kernel] float32
  mx::array a_log;    // [Hv] float32
  mx::array dt_bias;  // [Hv] float32
  mx::array norm;     // [Dv] float32
  float eps = 1e-6f;
  int n_key_heads = 0;
  int n_value_heads = 0;
  int key_dim = 0;
  int value_dim = 0;

  /// Shapes    x, residual [T, hidden_size] -> residual + mixer(x)
  mx::array operator()(const mx::array& x, const std::optional<mx::array>& residual,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
