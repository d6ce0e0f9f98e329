// What the layers of a model remember of one sequence, in float.
#pragma once
#include <optional>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/float_type.h"

namespace optiq::cache {

namespace mx = mlx::core;

/// One layer's memory; which members are set is the kind of the layer.
struct LayerState {
  std::optional<kernels::KvArrays> kv;   // attention: [n_kv_heads, capacity, head_dim]
  std::optional<mx::array> conv_tail;    // gated delta net: [kernel - 1, channels]
  std::optional<mx::array> delta_state;  // gated delta net: [Hv, Dk, Dv]
};

/// What a layer needs to be remembered, decided by its model.
struct LayerShape {
  int n_kv_heads = 0;  // 0: not an attention layer
  int head_dim = 0;
  int conv_kernel = 0;  // 0: not a gated delta net
  int conv_channels = 0;
  int n_value_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
};

/// The memory of one sequence.
///
/// Threads   used by one thread at a time.
class SequenceState {
 public:
  /// An empty sequence with room for `capacity` tokens. Room that is not used yet is
  /// not touched, so it costs address space only.
  SequenceState(const std::vector<LayerShape>& shapes, int capacity, FloatType kv_type);

  /// Tokens remembered.
  int length() const { return length_; }
  int capacity() const { return capacity_; }

  /// Makes room for `capacity` tokens, keeping what is there.
  void reserve(int capacity);

  /// Counts tokens that the layers have taken in.
  void advance(int tokens) { length_ += tokens; }

  LayerState& layer(int i) { return layers_[static_cast<std::size_t>(i)]; }

  /// Every array, for mx::eval.
  std::vector<mx::array> arrays() const;

  /// Bytes of keys and values per token, over all layers.
  std::int64_t bytes_per_token() const;

 private:
  std::vector<LayerShape> shapes_;
  std::vector<LayerState> layers_;
  FloatType kv_type_;
  int capacity_ = 0;
  int length_ = 0;
};

}  // namespace optiq::cache
