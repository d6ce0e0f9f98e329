// How a rotation's arrays travel among the inputs of a fused operation.
#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/rope/rope.h"

namespace optiq::kernels {

/// What a rotation is besides its arrays.
struct RopeSettings {
  float eps, scale;
  bool q_norm, k_norm, has_long;
};

/// All but the heads; `others` are a rotation's inputs from its positions on, of which
/// `values(array, const T*)` says where they lie. `q` is the queries' array.
template <class Values>
RopeArgs rope_args(const RopeSettings& settings, std::span<const mx::array> others,
                   const mx::array& q, Values&& values) {
  const float* floats = nullptr;
  const std::int32_t* whole = nullptr;
  RopeArgs args{};
  args.positions = values(others[0], whole);
  args.inverse_frequency = values(others[1], floats);
  std::size_t next = 2;
  if (settings.q_norm) args.q.norm = values(others[next++], floats);
  if (settings.k_norm) args.k.norm = values(others[next++], floats);
  if (settings.has_long) {
    args.long_inverse_frequency = values(others[next], floats);
    args.long_rows = values(others[next + 1], whole);
  }
  args.rows = q.shape(0);
  args.head_dim = q.shape(2);
  args.n_frequencies = others[1].shape(0);
  args.eps = settings.eps;
  args.scale = settings.scale;
  return args;
}

/// What turned queries and keys were made of: q, k, and a rotation's other inputs.
struct TurnedHeads {
  RopeSettings settings;
  Arrays inputs;
};

/// That of two arrays which one rope() is yet to compute; nothing for others.
std::optional<TurnedHeads> turned_heads(const mx::array& q, const mx::array& k);

/// The rotation of these inputs in plain MLX operations.
Arrays plain_rope(const Arrays& inputs, const RopeSettings& settings);

}  // namespace optiq::kernels
