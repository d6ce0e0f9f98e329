// Products of activations with weight matrices on a CUDA device: linear.h's contract.
#pragma once
#include <span>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels::cuda {

/// Rows of x that one launch takes.
inline constexpr int kMostRows = 32;

/// True for every quantized format; dense matrices are cuBLAS's.
bool has_linear(const MatrixView& w);

/// Bytes on the device that a call needs besides, for rows of x as kernels read them.
std::size_t scratch_bytes(int M, int K, Activation activation);

/// y = x W^T + bias + residual for each product of one x, all pointers of the device. A
/// row's result depends neither on the other rows nor on the grid.
///
/// kExact keeps 22 bits of each value of x under its group's largest, kInt8 11 bits:
/// the codes are whole numbers, which half-precision tensor cores multiply exactly.
///
/// Shapes    x [M, K]; W [N, K]; y [M, N]
/// Requires  has_linear(each w); scratch_bytes of scratch, 16 bytes aligned
/// Throws    std::runtime_error where the device has no shared memory for it; what
///           `launch` throws
/// Cost      M <= kMostRows reads the weights once, bound by bytes; more rows go in
///           pieces of so many.
void linear(const float* x, int M, int K, std::span<const Product> products,
            Activation activation, void* scratch, const Launcher& launch);

}  // namespace optiq::kernels::cuda
