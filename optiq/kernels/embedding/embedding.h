// Rows of a weight matrix as float32.
#pragma once
#include <cstdint>

#include "optiq/kernels/matrix.h"

namespace optiq::kernels {

/// y[i] = row ids[i] of w, or row i where ids is null.
///
/// Shapes    ids [rows]; w [N, K]; y [rows, K]
/// Requires  row numbers in [0, N); is_supported(w.spec) where quantized.
/// Cost      bound by the bytes of y.
void dequantize_rows(const MatrixView& w, const std::int32_t* ids, std::int64_t rows,
                     float* y);

namespace ref {
/// The definition: one row.
void dequantize_row(const MatrixView& w, int row, float* y);
}  // namespace ref

}  // namespace optiq::kernels
