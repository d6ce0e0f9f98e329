// Scales and biases of a panel of rows of W. Included by *_simd.cpp and *_amx.cpp only.
#pragma once
#include "optiq/kernels/linear/bytes.h"
#include "optiq/kernels/linear/parts.h"

namespace optiq::kernels::OPTIQ_SIMD {

/// Where int8_many has them: to[chain_position(g) stride + n] is that of row n0 + n and
/// group g, for kLanes rows; zeros from row `valid` on and in groups past the last.
static void fill_scales(const MatrixView& w, const void* from, int n0, int valid,
                        int groups, float* to, int stride) {
  const int real_groups = w.groups();
  for (int g = 0; g < groups; g += kLanes) {
    VecInt values[kLanes];
    for (int n = 0; n < kLanes; ++n) {
      const std::int64_t at = (std::int64_t)(n0 + n) * real_groups + g;
      float rest[kLanes] = {};
      if (n >= valid) {
        values[n] = VecInt{};
      } else if (g + kLanes <= real_groups) {
        values[n] = (VecInt)load_any(from, at, w.type);
      } else {
        for (int i = 0; g + i < real_groups; ++i)
          rest[i] = float_at(from, at + i, w.type);
        values[n] = (VecInt)load(rest);
      }
    }
    transpose(values);
    for (int i = 0; i < kLanes && g + i < groups; ++i)
      store(to + (std::int64_t)chain_position(g + i, groups) * stride, (Vec)values[i]);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
