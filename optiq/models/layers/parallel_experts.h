// Gemma 4's experts: beside the dense MLP, with norms and a router of their own.
#pragma once
#include "optiq/models/layers/mlp.h"

namespace optiq::models {

struct ParallelExperts {
  mx::array router_norm;        // [hidden_size]: scale / sqrt(hidden_size)
  LinearModule router;          // [E, hidden_size]
  mx::array expert_scale;       // [E], of a token's weights once they sum to 1
  mx::array input_norm;         // [hidden_size], of what the experts take
  LinearModule gate, up, down;  // of all experts
  mx::array dense_norm;         // of what the dense MLP gives
  mx::array output_norm;        // of what the experts give
  int n_active = 0;
  float eps = 1e-6f;
  kernels::GluGate f = kernels::GluGate::kGeluTanh;

  /// norm(dense) + norm(experts(norm x)). `x` is what the MLP's norm takes, not what it
  /// gives.
  ///
  /// Shapes    dense, x [T, hidden_size] -> the same
  /// Source    transformers 5.17, Gemma4TextDecoderLayer
  mx::array operator()(const mx::array& dense, const mx::array& x,
                       const LayerCall& call) const;
};

}  // namespace optiq::models
