// rms_norm on MLX arrays.
#pragma once
#include <optional>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// weight x / sqrt(mean(x^2) + eps) over the last axis, times silu(gate) if given.
///
/// Shapes    x, gate [..., dim] float32; weight [dim], any float type
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps,
                   const std::optional<mx::array>& gate = std::nullopt);

/// What a norm was made of.
struct NormOf {
  mx::array x, weight;  // float32
  float eps;
};

/// That of an array which is yet to be computed as rms_norm without a gate; nothing for
/// others.
std::optional<NormOf> norm_of(const mx::array& y);

}  // namespace optiq::kernels
