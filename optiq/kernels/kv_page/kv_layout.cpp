#include "optiq/kernels/kv_page/kv_layout.h"

#include <fmt/format.h>

#include <cmath>
#include <random>
#include <stdexcept>

#include "optiq/kernels/kv_page/kv_transform.h"

namespace optiq {
namespace {

constexpr int kMaxHeadDim = 1024;

int round_up(int n, int step) { return (n + step - 1) / step * step; }

bool has_biases(const KvFormat& format) {
  return format.kind == KvKind::kAffine || format.kind == KvKind::kTurboQjl;
}

// A side that begins `at` bytes behind where the head begins.
KvSide make_side(const KvFormat& format, int head_dim, bool keys, std::int64_t at) {
  KvSide side{};
  side.format = format;
  side.codes = at;
  if (format.kind == KvKind::kFloat) {
    side.bytes =
        static_cast<std::int64_t>(kPageTokens) * head_dim * size_of(format.type);
    return side;
  }
  // Refuses what the registry does not have.
  if (kv_format(name(format), format.bits, format.group_size) != format)
    throw std::invalid_argument("a KV cache format with fields it does not have");
  if (!keys && format != format_of_values(format))
    throw std::invalid_argument(
        fmt::format("values of a KV cache cannot be in {}", name(format)));
  side.group_values = format.kind == KvKind::kAffine ? format.group_size : head_dim;
  side.groups = (head_dim + side.group_values - 1) / side.group_values;
  const int channels = round_up(head_dim, keys ? kTileDepth : kTileLanes);
  const std::int64_t scales = static_cast<std::int64_t>(side.groups) * kPageTokens * 2;
  side.scales =
      at + static_cast<std::int64_t>(kPageTokens) * channels * format.bits / 8;
  side.biases = side.scales + scales;
  side.bytes = side.biases + (has_biases(format) ? scales : 0) - at;
  return side;
}

}  // namespace

KvLayout make_kv_layout(int n_kv_heads, int head_dim, const KvFormat& k,
                        const KvFormat& v) {
  if (n_kv_heads < 1 || head_dim < 1 || head_dim > kMaxHeadDim)
    throw std::invalid_argument(fmt::format(
        "a KV cache of {} heads of {} values: expected 1 or more of 1 to {}",
        n_kv_heads, head_dim, kMaxHeadDim));
  KvLayout layout{};
  layout.n_kv_heads = n_kv_heads;
  layout.head_dim = head_dim;
  layout.k = make_side(k, head_dim, true, 0);
  layout.v = make_side(v, head_dim, false, layout.k.bytes);
  layout.head_bytes = layout.k.bytes + layout.v.bytes;
  return layout;
}

std::vector<float> rotation_signs(int head_dim, std::uint64_t seed) {
  std::mt19937_64 generator(seed);  // its output is fixed by the standard
  std::vector<float> signs;
  signs.reserve(static_cast<std::size_t>(head_dim));
  for (int done = 0; done < head_dim;) {
    const int block = rotation_block(head_dim - done);
    const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
    for (int i = 0; i < block; ++i)
      signs.push_back(generator() >> 63 ? -factor : factor);
    done += block;
  }
  return signs;
}

}  // namespace optiq
