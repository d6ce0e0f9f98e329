// The error of one group of small floats under a given scale.
#pragma once

namespace optiq::quantize {

/// sum_i h[i] (w[i] - scale v_i)^2, where v_i is the value nearest to w[i] / scale: of
/// e4m3 if `eight_bits`, else of e2m1.
///
/// Requires  w[i] >= 0, n a multiple of 16, scale > 0.
float fp_error(bool eight_bits, const float* w, const float* h, int n,
               float scale) noexcept;

}  // namespace optiq::quantize
