#include "optiq/kernels/kv_page/kv_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "optiq/base/error.h"

namespace optiq {
namespace {

constexpr int kThirtyTwo[] = {32};
constexpr int kSixteen[] = {16};
constexpr int kAffineBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kAffineGroups[] = {32, 64, 128};
constexpr int kTurboBits[] = {2, 3, 4};

constexpr KvFormatInfo kFormats[] = {
    {"f32", KvKind::kFloat, FloatType::kF32, kThirtyTwo, {}},
    {"f16", KvKind::kFloat, FloatType::kF16, kSixteen, {}},
    {"bf16", KvKind::kFloat, FloatType::kBF16, kSixteen, {}},
    {"affine", KvKind::kAffine, FloatType::kF16, kAffineBits, kAffineGroups},
    {"turbo", KvKind::kTurbo, FloatType::kF16, kTurboBits, {}},
    {"turbo-qjl", KvKind::kTurboQjl, FloatType::kF16, kTurboBits, {}},
};

std::string list(std::span<const int> values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

}  // namespace

std::span<const KvFormatInfo> kv_formats() { return kFormats; }

KvFormat kv_format(std::string_view name, int bits, int group_size) {
  std::string names;
  for (const KvFormatInfo& row : kFormats) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
    if (row.name != name) continue;
    if (row.kind == KvKind::kFloat) return kv_float(row.type);
    if (std::ranges::find(row.bits, bits) == row.bits.end())
      throw std::invalid_argument(fmt::format("a KV cache in {} takes {} bits, not {}",
                                              name, list(row.bits), bits));
    if (row.group_sizes.empty()) return {row.kind, row.type, bits, 0};
    if (std::ranges::find(row.group_sizes, group_size) == row.group_sizes.end())
      throw std::invalid_argument(
          fmt::format("a KV cache in {} takes groups of {}, not {}", name,
                      list(row.group_sizes), group_size));
    return {row.kind, row.type, bits, group_size};
  }
  throw std::invalid_argument(
      fmt::format("there is no KV cache format {}; there are {}", name, names));
}

KvFormat kv_float(FloatType type) {
  return {KvKind::kFloat, type, 8 * size_of(type), 0};
}

KvFormat format_of_values(const KvFormat& keys) {
  KvFormat values = keys;
  if (keys.kind == KvKind::kTurboQjl) values.kind = KvKind::kTurbo;
  return values;
}

bool is_rotated(const KvFormat& format) {
  return format.kind == KvKind::kTurbo || format.kind == KvKind::kTurboQjl;
}

const char* name(const KvFormat& format) {
  for (const KvFormatInfo& row : kFormats)
    if (row.kind == format.kind &&
        (row.kind != KvKind::kFloat || row.type == format.type))
      return row.name;
  OPTIQ_CHECK(false, "a KV cache format without a registry row");
}

std::string describe(const KvFormat& format) {
  if (format.kind == KvKind::kFloat) return name(format);
  if (format.group_size == 0)
    return fmt::format("{} {}-bit", name(format), format.bits);
  return fmt::format("{} {}-bit group {}", name(format), format.bits,
                     format.group_size);
}

}  // namespace optiq
