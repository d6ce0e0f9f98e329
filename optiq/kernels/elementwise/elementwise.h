// Small operations on values one by one, which would break a tape if MLX ran them.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// y = scale (a + b); b may be null: nothing is added.
///
/// Shapes    a, b, y [n]; y may be a or b
/// Cost      bound by bytes
void scaled_sum(const float* a, const float* b, float scale, float* y, std::int64_t n);

/// y = a + sigmoid(gate) b, one gate a row.
///
/// Shapes    a, b, y [rows, n]; gate [rows]; y may be a or b
void gated_sum(const float* a, const float* b, const float* gate, float* y,
               std::int64_t rows, std::int64_t n);

/// y = cap tanh(x / cap): the logits of Gemma 2 and 4.
///
/// Shapes    x, y [n]; y may be x
void softcap(const float* x, float cap, float* y, std::int64_t n);

namespace ref {
/// The definitions, in double precision.
void scaled_sum_rows(const float* a, const float* b, float scale, float* y,
                     std::int64_t n);
void softcap_rows(const float* x, float cap, float* y, std::int64_t n);
}  // namespace ref
}  // namespace optiq::kernels
