// The quantized weight formats of MLX checkpoints, each named once.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace optiq {

/// How a group of weights is coded.
///   kAffine  w = scale * code + bias; scale and bias in the checkpoint's float type
///   kMxfp4   e2m1 codes, one e8m0 scale (OCP Microscaling formats 1.0)
///   kMxfp8   e4m3 codes, one e8m0 scale
///   kNvfp4   e2m1 codes, one e4m3 scale
enum class QuantMode { kAffine, kMxfp4, kMxfp8, kNvfp4 };

/// One tensor's format.
struct QuantSpec {
  QuantMode mode = QuantMode::kAffine;
  int bits = 4;
  int group_size = 64;

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

/// What a mode allows; the registry row that parsing, listing and messages read.
struct QuantModeInfo {
  QuantMode mode;
  const char* name;
  std::span<const int> bits;
  std::span<const int> group_sizes;
  bool has_biases;    // a float bias beside each scale
  bool float_scales;  // scales are floats (else one byte)
};

std::span<const QuantModeInfo> quant_modes();
const QuantModeInfo& info(QuantMode mode);
const char* name(QuantMode mode);
std::optional<QuantMode> quant_mode_from_name(std::string_view name);

/// True where the mode has these bits and this group size.
bool is_supported(const QuantSpec& spec);

/// Such as "affine 4-bit group 64".
std::string describe(const QuantSpec& spec);

}  // namespace optiq
