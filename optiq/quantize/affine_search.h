// The search for a group's scale and bias, several groups at once.
//
// Minimised is E(s, z) = sum_i h_i (w_i - z - s q_i)^2, q_i = clip(rint((w_i - z) /
// s)), over s and z that the stored type can hold: every candidate is rounded to that
// type before its codes are chosen and its error is measured, so nothing is lost when
// it is stored. In order:
//   1. MLX's own scale and bias, their codes chosen anew;
//   2. the range clipped at either end (a coarse grid, then finer around the best), and
//      some multiples of the weighted deviation around the weighted mean, which do not
//      see outliers that carry no weight;
//   3. weighted least squares for (s, z) given the codes, alternating with the codes,
//      from the best two of 2 and from 1;
//   4. the same grid counted from its other end, and stored neighbours of s and z.
//
// Source    quantization of weights by clipping and least squares as in GGUF's
//           k-quants and HQQ's baselines; measured in docs/decisions/rounding.md.
#pragma once
#include "optiq/kernels/float_type.h"
#include "optiq/quantize/lanes.h"

namespace optiq::quantize {

inline constexpr int kMaxGroupSize = 128;

/// Groups of different rows over the same columns, one per lane.
struct SearchBlock {
  int group_size;
  float max_code;  // 2^bits - 1
  FloatType scale_type;
  bool thorough;  // about four times the work; measures what the default leaves
  // Weights divided by the lane's `unit`, a power of two, so that the largest is near 1
  // and squares neither overflow nor vanish.
  alignas(64) float w[kMaxGroupSize][kSearchLanes];
  alignas(64) float unit[kSearchLanes];
  alignas(64) float h[kMaxGroupSize];  // at most 1
};

/// Scales and biases in the units of the weights, each exactly of `scale_type`.
struct ScalesAndBiases {
  alignas(64) float scale[kSearchLanes];
  alignas(64) float bias[kSearchLanes];
};

/// Improves on `start`, lane by lane. A start that is not finite is ignored.
///
/// Threads   any.
void search_scales(const SearchBlock& block, const ScalesAndBiases& start,
                   ScalesAndBiases& best) noexcept;

/// code = clip(rint((w - bias) / scale), 0, max_code) for n weights, n a multiple
/// of 16. A scale of zero gives zeros.
void nearest_codes(const float* w, int n, float scale, float bias, float max_code,
                   unsigned char* codes) noexcept;

/// sum_i h[i] (w[i] - scale codes[i] - bias)^2 in double, n a multiple of 16.
double weighted_error(const float* w, const float* h, int n, float scale, float bias,
                      const unsigned char* codes) noexcept;

/// y[i] = the value nearest to x[i] in `type`; beyond its range, infinity.
/// Requires  n a multiple of 16; x may be y.
void round_to(FloatType type, const float* x, int n, float* y) noexcept;

}  // namespace optiq::quantize
