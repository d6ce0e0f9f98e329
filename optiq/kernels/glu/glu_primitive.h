// The gated product of an MLP on MLX arrays.
#pragma once
#include "mlx/array.h"
#include "optiq/kernels/glu/glu.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// f(gate) up, as glu() joins its two products.
///
/// Shapes    gate, up [T, N] float32 -> [T, N]
mx::array glu_product(const mx::array& gate, const mx::array& up, GluGate f);

/// The gradients by gate and by up.
///
/// Shapes    dy [T, N] float32 -> two of [T, N]
std::vector<mx::array> glu_product_gradients(const mx::array& gate, const mx::array& up,
                                             const mx::array& dy, GluGate f);

/// f(gate) in plain MLX operations.
mx::array plain_gate(const mx::array& gate, GluGate f);

}  // namespace optiq::kernels
