#include "optiq/kernels/quant_mode.h"

#include <fmt/format.h>

#include <algorithm>

#include "optiq/base/error.h"

namespace optiq {
namespace {

constexpr int kAffineBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kAffineGroups[] = {32, 64, 128};
constexpr int kFour[] = {4};
constexpr int kEight[] = {8};
constexpr int kSixteen[] = {16};
constexpr int kThirtyTwo[] = {32};

constexpr QuantModeInfo kModes[] = {
    {QuantMode::kAffine, "affine", kAffineBits, kAffineGroups, true, true},
    {QuantMode::kMxfp4, "mxfp4", kFour, kThirtyTwo, false, false},
    {QuantMode::kMxfp8, "mxfp8", kEight, kThirtyTwo, false, false},
    {QuantMode::kNvfp4, "nvfp4", kFour, kSixteen, false, false},
};

}  // namespace

std::span<const QuantModeInfo> quant_modes() { return kModes; }

const QuantModeInfo& info(QuantMode mode) {
  for (const QuantModeInfo& row : kModes)
    if (row.mode == mode) return row;
  OPTIQ_CHECK(false, "a quantization mode without a registry row");
}

const char* name(QuantMode mode) { return info(mode).name; }

std::optional<QuantMode> quant_mode_from_name(std::string_view name) {
  for (const QuantModeInfo& row : kModes)
    if (row.name == name) return row.mode;
  return std::nullopt;
}

bool is_supported(const QuantSpec& spec) {
  const QuantModeInfo& row = info(spec.mode);
  const auto has = [](std::span<const int> values, int value) {
    return std::ranges::find(values, value) != values.end();
  };
  return has(row.bits, spec.bits) && has(row.group_sizes, spec.group_size);
}

std::string describe(const QuantSpec& spec) {
  return fmt::format("{} {}-bit group {}", name(spec.mode), spec.bits, spec.group_size);
}

}  // namespace optiq
