// Rotary position embedding of queries and keys, after their optional head norms.
#pragma once
#include <optional>
#include <utility>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

struct RopeOptions {
  std::optional<mx::array> q_norm;  // [D]: RMSNorm of each head before the rotation
  std::optional<mx::array> k_norm;  // [D]
  float eps = 1e-6f;
  float scale = 1.0f;  // of cos and sin (attention scaling of yarn and longrope)
  // Frequencies of the rows whose entry in long_rows [T] int32 is not 0 (longrope).
  std::optional<mx::array> long_inverse_frequency{};
  std::optional<mx::array> long_rows{};
};

/// Rotates the first 2 F of the D values of each head: the pairs (i, i + F) turn by
/// position * inverse_frequency[i] (the half-split form of Hugging Face checkpoints);
/// the rest pass through.
///
/// Shapes    q [T, n_heads, D], k [T, n_kv_heads, D] float32, which may be strided
/// views
///           whose last axis is contiguous; positions [T] int32;
///           inverse_frequency [F] float32, 2 F <= D -> q, k rotated, contiguous
/// Source    Su et al. 2021, "RoFormer", section 3.2.2
std::pair<mx::array, mx::array> rope(const mx::array& q, const mx::array& k,
                                     const mx::array& positions,
                                     const mx::array& inverse_frequency,
                                     const RopeOptions& options = {});

}  // namespace optiq::kernels
