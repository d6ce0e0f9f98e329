// Gemma 4's second embedding: for each token, an input of its own to every layer.
#pragma once
#include "optiq/models/layers/layer.h"

namespace optiq::models {

/// What a layer does with its input, after its MLP.
struct PerLayerInput {
  LinearModule gate;        // [P, hidden_size]
  LinearModule projection;  // [hidden_size, P]
  mx::array norm;           // [hidden_size]
  float eps = 1e-6f;

  /// scale (x + norm(projection(gelu(gate x) * input))).
  ///
  /// Shapes    x [T, hidden_size], input [T, P] -> [T, hidden_size]
  mx::array operator()(const mx::array& x, const mx::array& input, float scale,
                       const LayerCall& call) const;
};

/// The inputs of all layers.
struct PerLayerEmbedding {
  LinearModule table;       // [V, n_layers P]
  LinearModule projection;  // [n_layers P, hidden_size]
  mx::array norm;           // [P]
  float eps = 1e-6f;
  int n_layers = 0;

  /// (norm(projection(x) / sqrt(hidden_size)) + sqrt(P) table[ids]) / sqrt(2).
  ///
  /// Shapes    ids [T], x [T, hidden_size] as it goes into the first layer ->
  ///           [T, n_layers P]
  mx::array operator()(const mx::array& ids, const mx::array& x,
                       const InputObserver& observer) const;
};

}  // namespace optiq::models
