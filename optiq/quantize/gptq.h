// Rounding that lets later columns make up for the errors of earlier ones (GPTQ).
#pragma once
#include <cstdint>
#include <span>

#include "optiq/quantize/affine.h"
#include "optiq/quantize/encoded_tensor.h"

namespace optiq::quantize {

struct GptqOptions {
  AffineOptions affine;
  double damping = 0.01;  // added to the diagonal, as a share of its mean
};

struct GptqResult {
  EncodedTensor tensor;     // its `error` is weighted by the diagonal of H alone
  double output_error = 0;  // tr(dW H dW^T) of `tensor`
  double searched_output_error = 0;  // the same for encode_affine with H's diagonal
  double damping = 0;                // what was used; 0 if no factor of H was found
  std::int64_t compensated_rows = 0;
};

/// H made ready: whoever encodes in several formats does it once.
class GptqFactor {
 public:
  /// A factor that fails is tried again with ten times the damping.
  ///
  /// Shapes    H [K, K], row major, symmetric (its rows are read); kept by reference
  /// Throws    std::invalid_argument for an H that is not finite or has a negative
  ///           diagonal.
  /// Cost      K^3 / 3 multiply-adds, two copies of H.
  GptqFactor(std::span<const float> H, std::int64_t K, double damping);

  std::span<const float> H;
  std::int64_t K;
  std::vector<float> diagonal;      // of H
  double asked_damping;             // as a share of its mean
  double damping = 0;               // what was used; 0 if no factor was found
  std::vector<std::int64_t> order;  // of the columns, as they are rounded
  std::vector<float> unit_upper;    // [K, K], U + I; empty without a factor
  std::vector<float> damped;        // [K, K], H with what was added
};

/// Encodes W so that the layer's output changes little: tr(dW H dW^T), H = E[x x^T].
///
/// Scales and biases are those of encode_affine for the original W, weighted by the
/// diagonal of H. The columns are then rounded in the order of falling H_kk, each after
/// correction for the errors already made; codes stay at their places, so the result is
/// an ordinary affine tensor without a permutation. A row keeps the codes of
/// encode_affine where these are no worse, so output_error <= searched_output_error.
/// Codes, scales and biases are then improved one by one (descent.h), if that helps.
///
/// Shapes    w [N, K] and H [K, K], row major; H symmetric (its rows are read).
/// Throws    std::invalid_argument as encode_affine; for an H that is not finite or has
///           a negative diagonal.
/// Threads   uses the shared pool; BLAS on the threads of the pool.
/// Cost      K^3 / 3 + 4 to 6 N K^2 multiply-adds; two copies of H, and 6 K floats for
///           each of 128 rows on each thread.
/// Source    Frantar et al., GPTQ (2210.17323), in the form without an inverse of
///           Chee et al., QuIP (2307.13304), section 3 and theorem 6 (LDLQ).
GptqResult encode_gptq(std::span<const float> w, std::int64_t N,
                       const GptqFactor& factor, const AffineOptions& options);
GptqResult encode_gptq(std::span<const float> w, std::int64_t N, std::int64_t K,
                       std::span<const float> H, const GptqOptions& options);

/// tr(D H D^T) for D [N, K]; double sums of float32 products.
double output_error(std::span<const float> difference, std::int64_t N, std::int64_t K,
                    std::span<const float> H);

}  // namespace optiq::quantize
