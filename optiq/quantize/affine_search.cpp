// One group per lane: every candidate costs eleven vector instructions for as many
// weights as there are lanes and no horizontal sums, and the solves, roundings and
// choices between candidates are vector code too. Bound by arithmetic; the block sits
// in the first-level cache. The file is compiled without fused multiply-add, so that
// the builds for different instruction sets choose the same bytes.
#include "optiq/quantize/affine_search.h"

#include <cstdint>

#include "optiq/quantize/lanes.h"
namespace optiq::quantize {
namespace {

OPTIQ_INLINE Lanes largest_finite(FloatType type) {
  return splat(type == FloatType::kBF16  ? 0x1.fep127f
               : type == FloatType::kF16 ? 65504.0f
                                         : 0x1.fffffep127f);
}

/// To nearest even; beyond the range, infinity.
OPTIQ_INLINE Lanes round_lanes(FloatType type, Lanes x) {
  Ints bits = (Ints)x;
  if (type == FloatType::kBF16) {
    bits = bits + 0x7fff + ((bits >> 16) & 1);
    return (Lanes)(bits & (std::int32_t)0xffff0000);
  }
  if (type == FloatType::kF16) {
    bits = bits + 0xfff + ((bits >> 13) & 1);
    const Lanes normal = (Lanes)(bits & (std::int32_t)0xffffe000);
    // Below 2^-14 the spacing is 2^-24, which is that of floats around 0.75.
    const Lanes subnormal = (x + 0.75f) - 0.75f;
    const Lanes infinity = (Lanes)(((Ints)x & (std::int32_t)0x80000000) | 0x7f800000);
    const Lanes size = magnitude(x);
    return size < 0x1p-14f ? subnormal : size < 65520.0f ? normal : infinity;
  }
  return x;
}

/// The distance from |x| to the next larger value of the type.
OPTIQ_INLINE Lanes spacing(FloatType type, Lanes x) {
  const Lanes power = (Lanes)((Ints)x & 0x7f800000);
  return type == FloatType::kBF16 ? power * 0x1p-7f
                                  : maximum(power * 0x1p-10f, splat(0x1p-24f));
}

/// Half widths of ranges, in weighted standard deviations.
constexpr float kReaches[] = {1.25f, 1.6f, 2.0f, 2.5f, 3.0f, 3.7f};

/// A candidate in the units of the block, exactly representable when multiplied by the
/// lane's unit, and its error.
struct Candidate {
  Lanes s, z, error;
};

struct Step {
  Lanes s, z;
};

struct Searcher {
  const SearchBlock& block;
  Lanes unit, inverse_unit;
  Lanes sum_h;

  OPTIQ_INLINE Lanes stored(const Searcher& self, Lanes x) {
    const Lanes limit = largest_finite(self.block.scale_type);
    const Lanes inside = minimum(maximum(x * self.unit, -limit), limit);
    return round_lanes(self.block.scale_type, inside) * self.inverse_unit;
  }

  OPTIQ_INLINE Lanes inverse(Lanes s) {
    return magnitude(s) > 1e-30f ? 1.0f / s : splat(0);
  }

  OPTIQ_INLINE Lanes error(const Searcher& self, Lanes s, Lanes z) {
    const Lanes inv = inverse(s), top = splat(self.block.max_code);
    Lanes sum{};
    for (int i = 0; i < self.block.group_size; ++i) {
      const Lanes offset = load(self.block.w[i]) - z;
      const Lanes q = round_small(minimum(maximum(offset * inv, Lanes{}), top));
      const Lanes d = offset - s * q;
      sum += d * d * self.block.h[i];
    }
    return sum;
  }

  /// The error at (s, z), and the least-squares correction of (s, z) for its codes:
  /// with residuals d, [ds dz] = [sum hqq, sum hq; sum hq, sum h]^-1 [sum hqd; sum hd].
  OPTIQ_INLINE Lanes error_and_step(const Searcher& self, Lanes s, Lanes z,
                                    Step& step) {
    const Lanes inv = inverse(s), top = splat(self.block.max_code);
    Lanes sum{}, hq{}, hqq{}, hd{}, hqd{};
    for (int i = 0; i < self.block.group_size; ++i) {
      const float h = self.block.h[i];
      const Lanes offset = load(self.block.w[i]) - z;
      const Lanes q = round_small(minimum(maximum(offset * inv, Lanes{}), top));
      const Lanes d = offset - s * q;
      const Lanes weighted_q = q * h, weighted_d = d * h;
      sum += d * weighted_d;
      hq += weighted_q;
      hqq += q * weighted_q;
      hd += weighted_d;
      hqd += q * weighted_d;
    }
    const Lanes determinant = hqq * self.sum_h - hq * hq;
    // All codes equal (up to float noise): only the bias is determined.
    const Ints regular = determinant > 1e-5f * hqq * self.sum_h;
    step.s = regular ? (hqd * self.sum_h - hq * hd) / determinant : splat(0);
    step.z = self.sum_h > 0 ? (hd - step.s * hq) / self.sum_h : splat(0);
    return sum;
  }

  OPTIQ_INLINE void keep(Candidate& best, Lanes s, Lanes z, Lanes error) {
    const Ints better = error < best.error;
    best.s = better ? s : best.s;
    best.z = better ? z : best.z;
    best.error = better ? error : best.error;
  }

  /// Alternates codes and least squares from `from`, keeping the best seen.
  OPTIQ_INLINE void refit(const Searcher& self, const Candidate& from, int steps,
                          Candidate& best) {
    Lanes s = from.s, z = from.z;
    for (int i = 0; i <= steps; ++i) {
      Step step;
      keep(best, s, z, error_and_step(self, s, z, step));
      s = stored(self, s + step.s);
      z = stored(self, z + step.z);
    }
  }
};

struct Range {
  Lanes low, width;
};

/// The grid that covers the range with fractions a and b of it cut off.
OPTIQ_INLINE void clipped(const Searcher& searcher, const Range& range, Lanes a,
                          Lanes b, Lanes& s, Lanes& z) {
  z = Searcher::stored(searcher, range.low + a * range.width);
  // A constant group has no range, but its constant may not be storable: then one step
  // above the stored bias is.
  const Lanes span = range.width > 0 ? range.width * (1.0f - a - b) : range.low - z;
  const Lanes steps = range.width > 0 ? splat(searcher.block.max_code) : splat(1);
  s = Searcher::stored(searcher, span / steps);
}

OPTIQ_INLINE void search(const SearchBlock& block, const ScalesAndBiases& start,
                         ScalesAndBiases& result) {
  const Lanes unit = load(block.unit);
  Searcher searcher{block, unit, 1.0f / unit, {}};
  Range range{load(block.w[0]), {}};
  Lanes high = range.low;
  float sum_h = 0;
  Lanes hw{}, hww{};
  for (int i = 0; i < block.group_size; ++i) {
    const Lanes w = load(block.w[i]);
    range.low = minimum(range.low, w);
    high = maximum(high, w);
    sum_h += block.h[i];
    hw += w * block.h[i];
    hww += w * w * block.h[i];
  }
  range.width = high - range.low;
  searcher.sum_h = splat(sum_h);
  const Lanes mean = sum_h > 0 ? hw / sum_h : Lanes{};
  const Lanes deviation =
      sum_h > 0 ? square_root(maximum(hww / sum_h - mean * mean, Lanes{})) : Lanes{};

  const Lanes largest = splat(0x1.fffffep127f);
  const Candidate none{splat(0), Searcher::stored(searcher, range.low), largest};
  Candidate best = none, second = none;
  Lanes best_a{}, best_b{};

  const int coarse = block.thorough ? 13 : 5;
  const float cut = block.thorough ? 0.02f : 0.06f;
  for (int i = 0; i < coarse; ++i)
    for (int j = 0; j < coarse; ++j) {
      const Lanes a = splat(cut * i), b = splat(cut * j);
      Lanes s, z;
      clipped(searcher, range, a, b, s, z);
      const Lanes error = Searcher::error(searcher, s, z);
      const Ints first = error < best.error;
      Searcher::keep(second, first ? best.s : s, first ? best.z : z,
                     first ? best.error : error);
      Searcher::keep(best, s, z, error);
      best_a = first ? a : best_a;
      best_b = first ? b : best_b;
    }
  if (!block.thorough) {
    const Lanes a = best_a, b = best_b;
    for (int i = -1; i <= 1; ++i)
      for (int j = -1; j <= 1; ++j) {
        if (i == 0 && j == 0) continue;
        Lanes s, z;
        clipped(searcher, range, a + 0.03f * i, b + 0.03f * j, s, z);
        Searcher::keep(best, s, z, Searcher::error(searcher, s, z));
      }
  }

  for (float reach : kReaches) {
    const Lanes low = maximum(range.low, mean - reach * deviation);
    const Lanes width = minimum(high, mean + reach * deviation) - low;
    Lanes s, z;
    clipped(searcher, {low, width}, Lanes{}, Lanes{}, s, z);
    Searcher::keep(best, s, z, Searcher::error(searcher, s, z));
  }

  const int steps = block.thorough ? 20 : 3;
  const Candidate first = best;
  Searcher::refit(searcher, first, steps, best);
  Searcher::refit(searcher, second, steps - 1, best);
  Candidate mlx{load(start.scale) * searcher.inverse_unit,
                load(start.bias) * searcher.inverse_unit, largest};
  const Ints usable = (magnitude(mlx.s) < largest) & (magnitude(mlx.z) < largest);
  mlx.s = usable ? mlx.s : best.s;
  mlx.z = usable ? mlx.z : best.z;
  Searcher::refit(searcher, mlx, steps - 1, best);

  const Lanes other_end = Searcher::stored(searcher, best.z + best.s * block.max_code);
  Searcher::refit(searcher, {-best.s, other_end, largest}, 0, best);

  if (block.scale_type != FloatType::kF32) {
    // At 8 bits a rounding of the scale moves the far end by whole steps.
    const int reach = block.thorough || block.max_code > 100 ? 4 : 2;
    for (int round = 0; round < 2; ++round) {
      const int r = round == 0 ? reach : 1;
      const Candidate middle = best;
      const Lanes ds =
          spacing(block.scale_type, middle.s * unit) * searcher.inverse_unit;
      const Lanes dz =
          spacing(block.scale_type, middle.z * unit) * searcher.inverse_unit;
      for (int i = -r; i <= r; ++i)
        for (int j = -r; j <= r; ++j) {
          if (i == 0 && j == 0) continue;
          const Lanes s = Searcher::stored(searcher, middle.s + ds * (float)i);
          const Lanes z = Searcher::stored(searcher, middle.z + dz * (float)j);
          Searcher::keep(best, s, z, Searcher::error(searcher, s, z));
        }
    }
  }
  store(result.scale, best.s * unit);
  store(result.bias, best.z * unit);
}

}  // namespace

OPTIQ_MULTI_TARGET
void search_scales(const SearchBlock& block, const ScalesAndBiases& start,
                   ScalesAndBiases& best) noexcept {
  search(block, start, best);
}

OPTIQ_MULTI_TARGET
void nearest_codes(const float* w, int n, float scale, float bias, float max_code,
                   unsigned char* codes) noexcept {
  const Lanes top = splat(max_code);
  for (int i = 0; i < n; i += kSearchLanes) {
    const Lanes x = (load(w + i) - bias) / scale;
    // Comparisons with NaN (a zero or infinite scale) are false: the code is 0.
    const Lanes q = round_small(minimum(x > 0.0f ? x : Lanes{}, top));
    *(Bytes*)(codes + i) =
        __builtin_convertvector(__builtin_convertvector(q, Ints), Bytes);
  }
}

OPTIQ_MULTI_TARGET
double weighted_error(const float* w, const float* h, int n, float scale, float bias,
                      const unsigned char* codes) noexcept {
  Doubles sum{};
  for (int i = 0; i < n; i += kSearchLanes) {
    const Doubles q = __builtin_convertvector(
        __builtin_convertvector(*(const Bytes*)(codes + i), Ints), Doubles);
    const Doubles d = __builtin_convertvector(load(w + i), Doubles) -
                      ((double)scale * q + (double)bias);
    sum += d * d * __builtin_convertvector(load(h + i), Doubles);
  }
  double total = 0;
  for (int i = 0; i < kSearchLanes; ++i) total += sum[i];
  return total;
}

OPTIQ_MULTI_TARGET
void round_to(FloatType type, const float* x, int n, float* y) noexcept {
  for (int i = 0; i < n; i += kSearchLanes)
    store(y + i, round_lanes(type, load(x + i)));
}

}  // namespace optiq::quantize
