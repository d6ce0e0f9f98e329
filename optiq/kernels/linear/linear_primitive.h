// Products with weight matrices, dense or quantized, on MLX arrays.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/linear/activation.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// One linear layer's tensors as they lie in a checkpoint.
///
/// Shapes    weight [N, K] float, or [N, K bits / 32] uint32 with scales and biases
///           [N, K / group_size] (mx and nv formats: uint8 scales, no biases);
///           bias [N] float
struct LinearWeight {
  mx::array weight;
  std::optional<mx::array> scales;
  std::optional<mx::array> biases;
  std::optional<mx::array> bias;
  QuantSpec spec;

  bool quantized() const { return scales.has_value(); }
  int output_dim() const { return weight.shape(0); }
  int input_dim() const {
    return quantized() ? weight.shape(1) * 32 / spec.bits : weight.shape(1);
  }
};

struct LinearOptions {
  Activation activation = Activation::kInt8;
  std::optional<mx::array> residual;  // added to the product, [T, N]
};

/// y = x W^T + bias + residual, float32.
///
/// Shapes    x [T, K] float32 -> [T, N]
mx::array linear(const mx::array& x, const LinearWeight& w,
                 const LinearOptions& options = {});

/// Several products of one x, in one pass over it.
///
/// Shapes    x [T, K]; weights of equal K -> one [T, N_i] each
std::vector<mx::array> linear_group(const mx::array& x,
                                    std::span<const LinearWeight> weights,
                                    Activation activation = Activation::kInt8);

/// f(x gate^T) (x up^T): the first half of a gated MLP.
///
/// Shapes    x [T, K]; gate, up [N, K] -> [T, N]
mx::array glu(const mx::array& x, const LinearWeight& gate, const LinearWeight& up,
              GluGate f, Activation activation = Activation::kInt8);

/// The weight as float32 [N, K].
mx::array dequantized(const LinearWeight& w);

}  // namespace optiq::kernels
