// The gradient of the normalization of rows.
#pragma once
#include "optiq/kernels/rms_norm/rms_norm.h"

namespace optiq::kernels {

/// Shapes    dy, dx, dgate [rows, dim]
struct RmsNormBackwardArgs {
  RmsNormArgs forward;  // its inputs; y is not used
  const float* dy;
  float* dx;
  float* dgate;  // null where there is no gate
};

/// With r = 1 / sqrt(mean(x^2) + eps) and d = dy silu(gate) weight:
///   dx = r (d - x r^2 mean(d x)),   dgate = dy weight x r silu'(gate).
/// The weight is a constant.
///
/// Cost      reads x, dy and the gate once from memory; bound by bytes.
void rms_norm_backward(const RmsNormBackwardArgs& args);

namespace ref {
/// The definition: rows [begin, end) in double precision.
void rms_norm_backward_rows(const RmsNormBackwardArgs& args, std::int64_t begin,
                            std::int64_t end);
}  // namespace ref

}  // namespace optiq::kernels
