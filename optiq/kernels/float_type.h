// The float types of checkpoints, and their conversion one value at a time.
#pragma once
#include <cstdint>
#include <cstring>

namespace optiq {

enum class FloatType : std::uint8_t { kF32, kF16, kBF16 };

constexpr int size_of(FloatType type) { return type == FloatType::kF32 ? 4 : 2; }

inline float bf16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

/// Rounds to nearest even; NaN stays NaN.
inline std::uint16_t float_to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  float value;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  const std::uint32_t wide = exponent == 31
                                 ? sign | 0x7f800000 | (mantissa << 13)
                                 : sign | ((exponent + 112) << 23) | (mantissa << 13);
  std::memcpy(&value, &wide, 4);
  return value;
}

/// Rounds to nearest even; overflows to infinity; NaN stays NaN.
inline std::uint16_t float_to_f16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint16_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) {  // subnormal: the addition rounds at 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return sign | static_cast<std::uint16_t>(bits - 0x3f000000);
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<std::uint16_t>((bits - 0x38000000) >> 13);
}

/// The value at `index` of an array of `type`.
inline float load_float(const void* data, std::int64_t index, FloatType type) {
  if (type == FloatType::kF32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == FloatType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

}  // namespace optiq
