// The small floats of the microscaling formats, one value at a time.
//
// Source    OCP Microscaling Formats 1.0 (e2m1, e8m0); OCP 8-bit Floating Point 1.0
//           (e4m3, whose largest value is 448 and which has no infinity).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace optiq {

inline constexpr float kE2m1Values[16] = {0,    .5f,  1,  1.5f,  2,  3,  4,  6,
                                          -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

/// 2^(code - 127). The code 255, which means NaN, is read as 2^128.
inline double e8m0_to_double(std::uint8_t code) { return std::ldexp(1.0, code - 127); }

inline float e4m3_to_float(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const float size = exponent == 0
                         ? static_cast<float>(mantissa) * 0x1p-9f
                         : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code & 0x80 ? -size : size;
}

/// To nearest even; beyond 448, and for NaN, 448.
inline std::uint8_t float_to_e4m3(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint8_t sign = (bits >> 24) & 0x80;
  bits &= 0x7fffffff;
  const float size = std::abs(x);
  if (!(size < 448)) return sign | 0x7e;
  if (size < 0x1p-6f) return sign | static_cast<std::uint8_t>(std::rint(size * 512));
  bits += 0x7ffff + ((bits >> 20) & 1);
  return sign | static_cast<std::uint8_t>((bits >> 20) - (120u << 3));
}

/// To nearest, ties to the even code; beyond 6, 6.
inline std::uint8_t float_to_e2m1(float x) {
  const float size = std::abs(x);
  const int code = (size > .25f) + (size >= .75f) + (size > 1.25f) + (size >= 1.75f) +
                   (size > 2.5f) + (size >= 3.5f) + (size > 5);
  return static_cast<std::uint8_t>(code | (std::signbit(x) && code ? 8 : 0));
}

}  // namespace optiq
