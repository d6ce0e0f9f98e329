// Self-attention of llama-like models, with the variations that our models have.
#pragma once
#include <optional>

#include "optiq/models/layers/layer.h"
#include "optiq/models/rope_frequencies.h"

namespace optiq::models {

/// The keys and values of one layer in one call, for layers that share them.
///
/// Shapes    [T, n_kv_heads, D]
struct KeysValues {
  mx::array keys, values;
};

struct SelfAttention {
  // With an output gate: per head, D rows of queries, then D of the gate. Where there
  // is no k, either all is packed here, queries, keys, values one after another, or the
  // layer has no keys and values of its own.
  LinearModule q;
  std::optional<LinearModule> k;
  std::optional<LinearModule>
      v;  // none beside k: values are the keys before their norm
  LinearModule o;
  std::optional<mx::array> q_norm;  // [D] float32
  std::optional<mx::array> k_norm;
  std::optional<mx::array> v_norm;
  RopeFrequencies rope;
  float eps = 1e-6f;
  float scale = 1.0f;  // of q k
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int window = 0;  // 0: sees everything before it
  bool gated = false;
  int shares_with = -1;  // the layer whose keys and values it uses; -1: its own

  /// `shared`: where there is no cache, the keys and values of the layer it shares with
  /// go in, and those of its own come out.
  ///
  /// Shapes    x, residual [T, hidden_size] -> residual + attention(x)
  mx::array operator()(const mx::array& x, const std::optional<mx::array>& residual,
                       const LayerCall& call, std::optional<KeysValues>& shared) const;

 private:
  std::vector<mx::array> projections(const mx::array& x, const LayerCall& call) const;
};

}  // namespace optiq::models
