// The short depthwise convolution before a gated delta rule, with its memory.
#pragma once
#include <span>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/segment.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// y[t, c] = silu(sum_j weight[c, j] x[t - (kernel - 1) + j, c]), each segment by
/// itself; what lies before a segment comes from its tail.
///
/// Shapes    x [T, C] float32 (may be a strided view with a contiguous last axis);
///           weight [C, kernel] float32; tails: one [kernel - 1, C] float32 a segment,
///           the inputs that came before (zeros at the start) -> y [T, C], new tails
std::pair<mx::array, std::vector<mx::array>> causal_conv_silu(
    const mx::array& x, const mx::array& weight, std::span<const Segment> segments,
    const std::vector<mx::array>& tails);

}  // namespace optiq::kernels
