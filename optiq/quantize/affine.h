// A float tensor to MLX's affine format and back: w ~ scale * code + bias, per group.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "optiq/quantize/encoded_tensor.h"

namespace optiq::quantize {

struct AffineOptions {
  int bits = 4;                             // 2, 3, 4, 5, 6, 8
  int group_size = 64;                      // 32, 64, 128
  FloatType scale_type = FloatType::kBF16;  // of the stored scales and biases
  Search search = Search::kSearch;
};

/// Encodes W so that sum_k importance[k] (w - (scale code + bias))^2 is small, with
/// scale and bias as they are stored, that is, rounded to `scale_type`.
///
/// Search::kMlx gives the bytes of mx::quantize(W.astype(scale_type)); it ignores the
/// importance except in the errors it reports. Search::kSearch is described in
/// affine_search.h; each group keeps the bytes of kMlx unless it has found better ones.
/// The same input gives the same bytes on every CPU and with any number of threads.
///
/// Shapes    w [N, K], row major. importance [K] (the diagonal of E[x x^T]), or empty
///           for all ones. A channel of importance 0 may be coded anyhow: see
///           floored().
/// Requires  group_size divides K.
/// Throws    std::invalid_argument naming row and group for a weight that is not
///           finite (kMlx: not finite in scale_type); for bad shapes, options or
///           importances.
/// Cost      see docs/decisions/rounding.md; runs on the shared thread pool.
EncodedTensor encode_affine(std::span<const float> w, std::int64_t N, std::int64_t K,
                            std::span<const float> importance,
                            const AffineOptions& options);

/// The float32 values of an affine tensor, [N, K].
std::vector<float> decode_affine(const EncodedTensor& tensor);

/// The importance with each value raised to at least `fraction` of the mean, so that
/// channels which a short calibration never saw are still coded with some care.
///
/// Throws    std::invalid_argument for values that are negative or not finite.
std::vector<float> floored(std::span<const float> importance, double fraction = 0.01);

}  // namespace optiq::quantize
