// The formats of cached keys and values, each named once.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "optiq/kernels/float_type.h"

namespace optiq {

/// How the cached vector of one token and head is coded.
///   kFloat   as it is, in `type`
///   kAffine  value = scale (code - 2^(bits-1)) + bias, scale and bias in float16 for
///            each group of `group_size` neighbouring values
///   kTurbo   value = scale entry[code], one float16 scale a vector and the entries of
///            kv_codebook.h; made for vectors that are rotated first
///   kTurboQjl  keys only: the top bit of a code is the sign of a random projection of
///            what a kTurbo code of the other bits leaves, and a second scale is the
///            length that these signs stand for. Read by decoding: slow, for comparison
/// Source   kTurbo: TurboQuant, arXiv 2504.19874, with the scales of
///          docs/decisions/kv-pages.md; kTurboQjl: its inner-product variant.
enum class KvKind : std::uint8_t { kFloat, kAffine, kTurbo, kTurboQjl };

/// The format of a layer's keys, or of its values.
struct KvFormat {
  KvKind kind = KvKind::kFloat;
  FloatType type = FloatType::kF16;  // kFloat only
  int bits = 16;
  int group_size = 0;  // kAffine only: 32, 64, 128

  friend bool operator==(const KvFormat&, const KvFormat&) = default;
};

/// A name that a format is chosen by, and what it allows.
struct KvFormatInfo {
  const char* name;  // "f32", "f16", "bf16", "affine", "turbo", "turbo-qjl"
  KvKind kind;
  FloatType type;
  std::span<const int> bits;
  std::span<const int> group_sizes;  // empty: the format has none
};

std::span<const KvFormatInfo> kv_formats();

/// The format of this name. Float names fix `bits`, formats without groups ignore
/// `group_size`.
///
/// Throws    std::invalid_argument with one line that says what there is.
KvFormat kv_format(std::string_view name, int bits, int group_size);

/// A float format of a type.
KvFormat kv_float(FloatType type);

/// What values take where keys take this: kTurbo for kTurboQjl, else the same.
KvFormat format_of_values(const KvFormat& keys);

/// True if vectors are rotated before they are coded.
bool is_rotated(const KvFormat& format);

/// The name in the registry.
const char* name(const KvFormat& format);

/// Such as "affine 4-bit group 64", "turbo 3-bit", "f16".
std::string describe(const KvFormat& format);

}  // namespace optiq
