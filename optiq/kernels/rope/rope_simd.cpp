// Cosine and sine of a row are worked out once, kLanes angles at a time, and then
// serve every head. The angle is reduced in double precision: with pi / 2 in two parts
// x - n pi / 2 keeps 1e-9 for any int32 position times a frequency of at most one.
// Bound by the bytes of x and y.
#include "optiq/kernels/rope/rope.h"
#include "optiq/kernels/simd_vector.h"

namespace optiq::kernels::OPTIQ_SIMD {
namespace {

typedef double VecDouble __attribute__((vector_size(8 * kLanes)));
typedef std::int64_t VecLong __attribute__((vector_size(8 * kLanes)));

struct SineCosine {
  Vec sine, cosine;
};

// Within 2 ulp of one, for |x| up to 2^31. Infinities and NaN give NaN.
//
// Source  x = n pi / 2 + r, |r| <= pi / 4 (Cody and Waite); Taylor polynomials of r to
//         r^11 and r^12, whose remainders are below 1e-11; quadrant n mod 4 swaps and
//         negates.
OPTIQ_INLINE SineCosine sine_cosine(Vec angle) {
  const VecDouble x = __builtin_convertvector(angle, VecDouble);
  // Adding 1.5 2^52 leaves the rounded integer in the low bits.
  const VecDouble shifted = x * 0.6366197723675814 + 6755399441055744.0;
  const VecDouble n = shifted - 6755399441055744.0;
  VecDouble r = x - n * 1.5707963267948966;
  r = r - n * 6.123233995736766e-17;
  const VecInt quadrant =
      __builtin_convertvector((VecLong)shifted & (VecLong{} + 3), VecInt);
  const Vec y = __builtin_convertvector(r, Vec);
  const Vec y2 = y * y;
  Vec s = broadcast(-1.0f / 39916800);
  s = multiply_add(s, y2, broadcast(1.0f / 362880));
  s = multiply_add(s, y2, broadcast(-1.0f / 5040));
  s = multiply_add(s, y2, broadcast(1.0f / 120));
  s = multiply_add(s, y2, broadcast(-1.0f / 6));
  s = multiply_add(s * y2, y, y);
  Vec c = broadcast(1.0f / 479001600);
  c = multiply_add(c, y2, broadcast(-1.0f / 3628800));
  c = multiply_add(c, y2, broadcast(1.0f / 40320));
  c = multiply_add(c, y2, broadcast(-1.0f / 720));
  c = multiply_add(c, y2, broadcast(1.0f / 24));
  c = multiply_add(c, y2, broadcast(-0.5f));
  c = multiply_add(c, y2, broadcast(1.0f));
  const VecInt odd = (quadrant & 1) != 0;
  const Vec sine = odd ? c : s, cosine = odd ? s : c;
  const VecInt negative_sine = (quadrant & 2) << 30;
  const VecInt negative_cosine = ((quadrant + 1) & 2) << 30;
  return {(Vec)((VecInt)sine ^ negative_sine), (Vec)((VecInt)cosine ^ negative_cosine)};
}

// Cosine and sine of a row, times the scale; room for whole vectors.
struct Turn {
  float cosine[kMaxFrequencies + kLanes];
  float sine[kMaxFrequencies + kLanes];
};

OPTIQ_INLINE void turn_of(const RopeArgs& a, std::int64_t row, Turn& turn) {
  const Vec position = broadcast((float)a.positions[row]);
  const float* frequencies =
      a.long_rows && a.long_rows[row] ? a.long_inverse_frequency : a.inverse_frequency;
  for (int i = 0; i < a.n_frequencies; i += kLanes) {
    Vec frequency{};
    if (i + kLanes <= a.n_frequencies) {
      frequency = load(frequencies + i);
    } else {
      for (int j = 0; i + j < a.n_frequencies; ++j) frequency[j] = frequencies[i + j];
    }
    const SineCosine both = sine_cosine(position * frequency);
    store(turn.cosine + i, both.cosine * a.scale);
    store(turn.sine + i, both.sine * a.scale);
  }
}

OPTIQ_INLINE float inverse_norm(const float* x, int dim, float eps) {
  Vec s0{}, s1{};
  int i = 0;
  for (; i + 2 * kLanes <= dim; i += 2 * kLanes) {
    const Vec x0 = load(x + i), x1 = load(x + i + kLanes);
    s0 = multiply_add(x0, x0, s0);
    s1 = multiply_add(x1, x1, s1);
  }
  float squares = reduce_add(s0 + s1);
  for (; i < dim; ++i) squares += x[i] * x[i];
  return 1.0f / __builtin_sqrtf(squares / (float)dim + eps);
}

template <bool NORM>
OPTIQ_INLINE void rotate_head(const RopeArgs& a, const float* x, const float* norm,
                              const Turn& turn, float* y) {
  const int f = a.n_frequencies;
  const float inverse = NORM ? inverse_norm(x, a.head_dim, a.eps) : 1.0f;
  int i = 0;
  for (; i + kLanes <= f; i += kLanes) {
    Vec low = load(x + i), high = load(x + f + i);
    if (NORM) {
      low *= load(norm + i) * inverse;
      high *= load(norm + f + i) * inverse;
    }
    const Vec c = load(turn.cosine + i), s = load(turn.sine + i);
    store(y + i, c * low - s * high);
    store(y + f + i, c * high + s * low);
  }
  for (; i < f; ++i) {
    float low = x[i], high = x[f + i];
    if (NORM) {
      low *= norm[i] * inverse;
      high *= norm[f + i] * inverse;
    }
    y[i] = turn.cosine[i] * low - turn.sine[i] * high;
    y[f + i] = turn.cosine[i] * high + turn.sine[i] * low;
  }
  for (i = 2 * f; i < a.head_dim; ++i) y[i] = NORM ? x[i] * (norm[i] * inverse) : x[i];
}

OPTIQ_INLINE void rotate_heads(const RopeArgs& a, const RopeHeads& heads,
                               std::int64_t row, const Turn& turn) {
  for (int head = 0; head < heads.n_heads; ++head) {
    const float* x = heads.x + row * heads.row_stride + head * heads.head_stride;
    float* y = heads.y + (row * heads.n_heads + head) * a.head_dim;
    if (heads.norm)
      rotate_head<true>(a, x, heads.norm, turn, y);
    else
      rotate_head<false>(a, x, heads.norm, turn, y);
  }
}

}  // namespace

void rope_rows(const RopeArgs& a, std::int64_t begin, std::int64_t end) {
  Turn turn;
  for (std::int64_t row = begin; row < end; ++row) {
    turn_of(a, row, turn);
    rotate_heads(a, a.q, row, turn);
    rotate_heads(a, a.k, row, turn);
  }
}

}  // namespace optiq::kernels::OPTIQ_SIMD
