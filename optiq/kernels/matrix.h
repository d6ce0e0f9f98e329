// A weight matrix as kernels see it: raw pointers into a checkpoint, dense or
// quantized.
#pragma once
#include <cstdint>

#include "optiq/kernels/float_type.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::kernels {

/// W [N, K], row major, used as y = x W^T. The memory belongs to somebody else.
///
/// Dense:      `weight` holds N K values of `type`; `scales` is null.
/// Quantized:  `weight` holds N rows of K bits/32 little-endian 32-bit words, the codes
///             of a row packed from the lowest bit up, without gaps (3, 5 and 6 bits
///             cross word borders). `scales` [N, K / group_size]: of `type` for affine,
///             one byte (e8m0 or e4m3) otherwise. `biases`: as scales, affine only.
///             w = scales[n][k / group_size] code + biases[n][k / group_size].
/// Source      the format of MLX, docs/formats/checkpoint.md.
struct MatrixView {
  int N = 0;
  int K = 0;
  const void* weight = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
  FloatType type = FloatType::kF32;
  QuantSpec spec;

  bool quantized() const { return scales != nullptr; }
  int groups() const { return K / spec.group_size; }
  std::int64_t row_bytes() const {
    return quantized() ? static_cast<std::int64_t>(K) * spec.bits / 8
                       : static_cast<std::int64_t>(K) * size_of(type);
  }
  /// Bytes that one product reads: codes, scales and biases.
  std::int64_t bytes() const {
    const std::int64_t scale_bytes = !quantized() ? 0
                                     : spec.mode == QuantMode::kAffine
                                         ? 2 * size_of(type)
                                         : 1;
    return N * (row_bytes() + (quantized() ? groups() * scale_bytes : 0));
  }
  /// The matrix of `count` rows from `begin` on.
  MatrixView rows(std::int64_t begin, int count) const {
    MatrixView part = *this;
    part.N = count;
    const auto from = [&](const void* p, std::int64_t bytes_of_row) -> const void* {
      return p ? static_cast<const char*>(p) + begin * bytes_of_row : nullptr;
    };
    const std::int64_t scale = spec.mode == QuantMode::kAffine ? size_of(type) : 1;
    part.weight = from(weight, row_bytes());
    part.scales = quantized() ? from(scales, groups() * scale) : nullptr;
    part.biases = quantized() ? from(biases, groups() * scale) : nullptr;
    return part;
  }
};

}  // namespace optiq::kernels
