// Products of activations with weight matrices on a CUDA device: linear.h's contract.
#pragma once
#include <span>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels::cuda {

/// Rows of x that one launch takes.
inline constexpr int kMostRows = 32;

/// Rows beyond which x is in half precision: its conversion costs more than the codes'.
inline constexpr int kMostByteRows = 8;

/// True for every quantized format; dense matrices are cuBLAS's.
bool has_linear(const MatrixView& w);

/// True where products can take x from before its norm, and gate one another.
bool joins_norm_and_gate(const QuantSpec& spec);

/// The rows of x that products are given, as they are or, with `norm_weight` [K],
/// norm_weight x / sqrt(mean(x^2) + norm_eps). Both lie at multiples of 16 bytes.
struct InputRowsView {
  const float* x;  // [M, K]
  int M, K;
  const float* norm_weight = nullptr;
  float norm_eps = 0;
};

/// Bytes on the device that a call needs besides: for rows of x as kernels read them,
/// and sums of parts of K. `glu`: of two products, for glu().
std::size_t scratch_bytes(const InputRowsView& input, std::span<const Product> products,
                          bool glu, Activation activation);

/// y = x W^T + bias + residual for each product of one x, all pointers of the device. A
/// row's result depends neither on the other rows nor on the grid, but for their form.
///
/// Affine codes meet up to kMostByteRows rows of x as whole numbers, exactly
/// (ready_rows.cuh): kExact keeps 30 bits of each value of x under its group's largest,
/// kInt8 15. More rows of kInt8 meet them in half precision, 11 bits, unless scales are
/// float32; so do all rows those of the small float formats, 22 bits for kExact.
///
/// Shapes    x [M, K]; W [N, K]; y [M, N]
/// Requires  has_linear(each w), joins_norm_and_gate where there is a norm; K
///           a multiple of 4; scratch_bytes of scratch, 16 bytes aligned
/// Throws    std::runtime_error where the device has no shared memory for it; what
///           `launch` throws
/// Cost      M <= kMostRows reads the weights once; more rows go in pieces of so many,
///           of kExact and of float32 scales in pieces of four, of both together of two
void linear(const InputRowsView& input, std::span<const Product> products,
            Activation activation, void* scratch, const Launcher& launch);

/// y = f(gate's product) (up's product); their own y and residual are not used.
///
/// Requires  what linear() does, gate and up of one format, that joins_norm_and_gate
void glu(GluGate f, const InputRowsView& input, const Product& gate, const Product& up,
         float* y, Activation activation, void* scratch, const Launcher& launch);

}  // namespace optiq::kernels::cuda
