// Codes, scales and biases improved one at a time, all others held.
#pragma once
#include <cstdint>
#include <span>

#include "optiq/quantize/encoded_tensor.h"

namespace optiq::quantize {

/// Lowers tr(dW H dW^T) of an affine tensor by coordinate descent: in turns each code
/// takes its best value, and each group its best scale and bias as they are stored. A
/// row is left alone once a turn changes nothing in it.
///
/// Shapes    w [N, K], H [K, K] symmetric with a positive diagonal
/// Returns   what the error fell by
/// Threads   uses the shared pool; a row's result does not depend on the others.
/// Cost      a product of N K^2 multiply-adds, and at most `turns` times as much
double descend(std::span<const float> w, std::span<const float> H, int turns,
               EncodedTensor& tensor);

}  // namespace optiq::quantize
