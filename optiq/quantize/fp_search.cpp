// The spacing of small floats is a power of two that depends on the size only, so the
// nearest value is a rounding to a multiple of it: no table is read.
#include "optiq/quantize/fp_search.h"

#include "optiq/quantize/lanes.h"

namespace optiq::quantize {
namespace {

OPTIQ_INLINE Lanes nearest_e2m1(Lanes x) {
  x = minimum(x, splat(6));
  const Lanes spacing = x < 2.0f ? splat(0.5f) : x < 4.0f ? splat(1) : splat(2);
  const Lanes inverse = x < 2.0f ? splat(2) : x < 4.0f ? splat(1) : splat(0.5f);
  return round_small(x * inverse) * spacing;
}

OPTIQ_INLINE Lanes nearest_e4m3(Lanes x) {
  x = minimum(x, splat(448));
  Ints bits = (Ints)x;
  bits = (bits + 0x7ffff + ((bits >> 20) & 1)) & (std::int32_t)0xfff00000;
  // Below 2^-6 the spacing is 2^-9, which is that of floats around 1.5 2^14.
  const Lanes subnormal = (x + 24576.0f) - 24576.0f;
  return x < 0x1p-6f ? subnormal : (Lanes)bits;
}

}  // namespace

OPTIQ_MULTI_TARGET
float fp_error(bool eight_bits, const float* w, const float* h, int n,
               float scale) noexcept {
  const float inverse = 1.0f / scale;
  Lanes sum{};
  for (int i = 0; i < n; i += kSearchLanes) {
    const Lanes x = load(w + i) * inverse;
    const Lanes d =
        load(w + i) - (eight_bits ? nearest_e4m3(x) : nearest_e2m1(x)) * scale;
    sum += d * d * load(h + i);
  }
  float total = 0;
  for (int i = 0; i < kSearchLanes; ++i) total += sum[i];
  return total;
}

}  // namespace optiq::quantize
