// How a LinearWeight travels among the inputs of a fused operation.
#pragma once
#include "optiq/kernels/fused_primitive.h"
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/kernels/matrix.h"

namespace optiq::kernels {

/// Where the arrays of one weight stand among a primitive's inputs; -1: not there.
struct WeightSlots {
  int weight = -1, scales = -1, biases = -1, bias = -1;
  QuantSpec spec;

  bool quantized() const { return scales >= 0; }
};

/// Appends the weight's arrays to `inputs`.
///
/// Throws    std::invalid_argument if their shapes or types do not fit the format.
WeightSlots append_weight(const LinearWeight& w, Arrays& inputs);

/// Where an evaluated array lies: for the CPU, or on a device.
using Address = const void* (*)(const mx::array&);
const void* host_address(const mx::array& x);

/// The matrix of arrays that have been evaluated and lie row after row.
MatrixView view_of(const mx::array& weight, const mx::array* scales,
                   const mx::array* biases, const QuantSpec& spec,
                   Address address = host_address);

/// The matrix of a weight among the inputs of a primitive under evaluation;
/// `contiguous` is the primitive's.
template <class Contiguous>
MatrixView view_of(const Arrays& inputs, const WeightSlots& w, Contiguous&& contiguous,
                   Address address = host_address) {
  const auto data = [&](int slot) {
    return contiguous(inputs[static_cast<std::size_t>(slot)]);
  };
  const mx::array weight = data(w.weight);
  if (!w.quantized()) return view_of(weight, nullptr, nullptr, w.spec, address);
  const mx::array scales = data(w.scales);
  if (w.biases < 0) return view_of(weight, &scales, nullptr, w.spec, address);
  const mx::array biases = data(w.biases);
  return view_of(weight, &scales, &biases, w.spec, address);
}

/// The kernels' name for a float type of MLX.
///
/// Throws    std::invalid_argument for other types.
FloatType float_type_of(mx::Dtype type);

/// x W^T in plain MLX operations.
mx::array plain_linear(const mx::array& x, const Arrays& inputs,
                       const WeightSlots& slots);

/// The weight as float32, or in another type, in plain MLX operations.
mx::array plain_dequantized(const Arrays& inputs, const WeightSlots& slots,
                            mx::Dtype type = mx::float32);

}  // namespace optiq::kernels
