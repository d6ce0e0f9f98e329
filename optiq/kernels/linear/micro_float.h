// The one-byte and half-byte floats of the OCP Microscaling formats.
#pragma once
#include <cmath>
#include <cstdint>

namespace optiq::kernels {

/// Two bits of exponent, one of mantissa: 0, .5, 1, 1.5, 2, 3, 4, 6 and their
/// negatives.
inline float e2m1_to_float(std::uint32_t code) {
  constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}

/// A power of two, 2^(code - 127); 255 is not a number.
inline float e8m0_to_float(std::uint8_t code) {
  return code == 255 ? NAN : std::ldexp(1.0f, code - 127);
}

/// Four bits of exponent, three of mantissa, no infinities; 0x7f is not a number.
inline float e4m3_to_float(std::uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return NAN;
  const float value = exponent ? std::ldexp(8.0f + mantissa, exponent - 10)
                               : std::ldexp(static_cast<float>(mantissa), -9);
  return code & 0x80 ? -value : value;
}

}  // namespace optiq::kernels
