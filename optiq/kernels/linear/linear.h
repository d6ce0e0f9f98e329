// Products of activations with weight matrices, dense or quantized.
//
// Two ways for activations to meet quantized weights:
//
// kExact   y = sum_k w_k x_k in float32, w = scale code + bias rounded once. The order
//          of the sum is fixed (linear_exact.h), the same for every M and every SIMD
//          target.
// kInt8    x is rounded to whole numbers of a step, one step per row and group:
//              step = max|x| / 127,   x ~ step xq,   |xq| <= 127,
//          so that a group costs one integer product, which is exact:
//              y = sum_g (scale_g step_g) dot(code, xq) + bias_g step_g sum(xq).
//          The float sum over groups runs in eight chains, group g in chain g mod 8,
//          each in ascending order; then c0 + c1 + ... + c7 from the left, bias,
//          residual. All kernels keep that order: the result of a row does not depend
//          on the other rows, on threads, or on the SIMD target, to the last bit.
#pragma once
#include <cstdint>

#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/linear/activation.h"
#include "optiq/kernels/matrix.h"

namespace optiq::kernels {

/// One weight matrix of a call, and where its product goes.
struct Product {
  MatrixView w;
  const void* bias = nullptr;  // [N] of bias_type; null: none
  FloatType bias_type = FloatType::kF32;
  const float* residual = nullptr;  // [M, N]; null: none; may be y
  float* y = nullptr;               // [M, N]
};

/// y_i = x W_i^T + bias_i + residual_i for each product.
///
/// Shapes    x [M, K]; each W_i [N_i, K]
/// Requires  is_supported(w.spec) where quantized; K a multiple of its group size.
/// Threads   runs on the pool; may be called from several threads.
/// Cost      M <= 4: reads the weights once, bound by bytes. Larger M: weights are
///           unpacked once per call, bound by multiplications. Dense weights and the
///           mx and nv formats always run as kExact.
void linear(const float* x, int M, int K, const Product* products, int n_products,
            Activation activation);

/// y = f(x Wg^T + bg) (x Wu^T + bu); the y and residual of the two are not used.
///
/// Shapes    x [M, K]; Wg, Wu [N, K]; y [M, N]
void glu(GluGate f, const float* x, int M, int K, const Product& gate,
         const Product& up, float* y, Activation activation);

/// True where an int8 product exists for the matrix; else kInt8 runs as kExact.
bool has_int8(const MatrixView& w);

namespace ref {

/// The weight at row n, column k, rounded to float32 as every kernel rounds it.
float weight_at(const MatrixView& w, int n, int k);

/// The definition of kExact, summed in double precision.
void linear_exact(const float* x, int M, int K, const Product& product);

/// The definition of kInt8; every kernel gives these bits.
void linear_int8(const float* x, int M, int K, const Product& product);

}  // namespace ref
}  // namespace optiq::kernels
