// A float tensor to the microscaling formats of MLX and back: mxfp4, mxfp8, nvfp4.
//
// A group of 32 (nvfp4: 16) small floats shares one scale of a byte: w ~ scale * value.
// mxfp4 and nvfp4 hold e2m1 values, mxfp8 e4m3; the scale is a power of two (e8m0), for
// nvfp4 e4m3. The per-tensor scale that MLX's CUDA build can add to nvfp4 is not part
// of MLX checkpoints and is not used here.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/quantize/encoded_tensor.h"

namespace optiq::quantize {

struct FpOptions {
  QuantMode mode = QuantMode::kMxfp4;        // not kAffine
  FloatType weight_type = FloatType::kBF16;  // the arithmetic that kMlx imitates
  Search search = Search::kSearch;
};

/// Encodes W so that sum_k importance[k] (w - decoded)^2 is small.
///
/// Search::kMlx gives the bytes of mx::quantize(W.astype(weight_type), mode) on the
/// CPU. The other searches try the scales around MLX's, choose the nearest value for
/// every weight, and keep MLX's bytes in each group where none is better.
///
/// Shapes    w [N, K], row major; importance [K] or empty for all ones.
/// Requires  32 (nvfp4: 16) divides K, and 32 does for whole words.
/// Throws    std::invalid_argument naming row and group for a weight that is not finite
///           (kMlx: not finite in weight_type); for bad shapes and options.
EncodedTensor encode_fp(std::span<const float> w, std::int64_t N, std::int64_t K,
                        std::span<const float> importance, const FpOptions& options);

/// The float32 values of such a tensor, [N, K].
std::vector<float> decode_fp(const EncodedTensor& tensor);

/// The format's bits and group size.
///
/// Throws    std::invalid_argument for kAffine, which has many.
QuantSpec fp_spec(QuantMode mode);

}  // namespace optiq::quantize
