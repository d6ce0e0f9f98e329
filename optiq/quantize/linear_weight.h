// From a model's matrix to an encoded tensor and back.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/quantize/encoded_tensor.h"

namespace optiq::quantize {

/// The values of a dense or quantized matrix, row major [N, K], evaluated.
std::vector<float> float_values(const kernels::LinearWeight& w);

/// Calls `f` with the values of some rows [n, K] from row `first` on, until all rows
/// have been seen: a dense matrix is never held whole in float32.
void for_each_row_block(
    const kernels::LinearWeight& w,
    const std::function<void(int first, std::span<const float>)>& f);

/// The float type that scales of this matrix are stored in: its own, or that of its
/// scales.
FloatType scale_type_of(const kernels::LinearWeight& w);

/// Encodes a matrix in any mode that has an encoder, some rows at a time.
///
/// Shapes    importance [K], or empty
/// Throws    std::invalid_argument for a format that the matrix does not fit.
EncodedTensor encode(const kernels::LinearWeight& w, const QuantSpec& spec,
                     std::span<const float> importance, Search search);

/// The encoded tensor as a matrix that models can use; `bias` is kept from the
/// original.
kernels::LinearWeight as_linear_weight(EncodedTensor tensor,
                                       const std::optional<mlx::core::array>& bias);

/// True if rows of K values can be cut into the format's groups.
bool fits(const QuantSpec& spec, int K);

/// Bytes of an [N, K] matrix in this format: codes, scales and biases.
std::int64_t encoded_bytes(const QuantSpec& spec, std::int64_t N, std::int64_t K,
                           FloatType scale_type);

}  // namespace optiq::quantize
