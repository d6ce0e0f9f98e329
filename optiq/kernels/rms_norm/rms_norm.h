// Root mean square normalization of rows, with an optional gate.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// One call of rms_norm.
///
/// Shapes    x, y, gate [rows, dim]; weight [dim]
struct RmsNormArgs {
  const float* x;
  const float* weight;
  const float* gate = nullptr;  // null: no gate
  float* y;                     // may be x
  std::int64_t rows;
  int dim;
  float eps;
};

/// y = weight x / sqrt(mean(x^2) + eps), times silu(gate) where there is one.
///
/// Cost      reads x once from memory; bound by bytes.
/// Source    Zhang and Sennrich 2019, eq. 4; the gate as in Gated DeltaNet (Yang et al.
///           2024), after the weight.
void rms_norm(const RmsNormArgs& args);

namespace ref {
/// The definition: rows [begin, end) in double precision.
void rms_norm_rows(const RmsNormArgs& args, std::int64_t begin, std::int64_t end);
}  // namespace ref

}  // namespace optiq::kernels
