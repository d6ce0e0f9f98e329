// Operations on values one by one, on MLX arrays.
#pragma once
#include <optional>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// scale (a + b), or scale a.
///
/// Shapes    a, b of one shape, float32
mx::array scaled_sum(const mx::array& a, const std::optional<mx::array>& b,
                     float scale);

/// a + sigmoid(gate) b.
///
/// Shapes    a, b [T, N], gate [T, 1] float32
mx::array gated_sum(const mx::array& a, const mx::array& b, const mx::array& gate);

/// cap tanh(x / cap).
mx::array softcap(const mx::array& x, float cap);

}  // namespace optiq::kernels
