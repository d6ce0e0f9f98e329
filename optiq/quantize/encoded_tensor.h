// One quantized tensor in memory, laid out as the checkpoint stores it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "optiq/kernels/float_type.h"
#include "optiq/kernels/matrix.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::quantize {

/// How scales are found.
///   kMlx       as mx::quantize does, bit for bit
///   kSearch    by search; in weighted squared error never worse than kMlx, group by
///              group
///   kThorough  about four times the work, for some hundredths of a decibel
enum class Search : std::uint8_t { kMlx, kSearch, kThorough };

/// W [N, K] in groups of spec.group_size along K.
struct EncodedTensor {
  QuantSpec spec;
  FloatType scale_type = FloatType::kBF16;  // affine only
  std::int64_t N = 0;
  std::int64_t K = 0;
  std::vector<std::uint32_t> weight;  // [N, K bits / 32]
  std::vector<std::byte> scales;      // [N, K / group_size], scale_type or one byte
  std::vector<std::byte> biases;      // as scales; affine only
  double error = 0;                   // sum of importance x (w - decoded)^2
  double mlx_error = 0;  // the same for mx::quantize; infinite where that overflows

  std::int64_t groups() const { return K / spec.group_size; }
  std::int64_t bytes() const {
    return static_cast<std::int64_t>(weight.size() * 4 + scales.size() + biases.size());
  }
  kernels::MatrixView view() const {
    return {static_cast<int>(N),
            static_cast<int>(K),
            weight.data(),
            scales.data(),
            biases.empty() ? nullptr : biases.data(),
            scale_type,
            spec};
  }
};

}  // namespace optiq::quantize
