// A warp codes the keys or the values of one token and head. A word of a tile of keys
// is one token's; one of values is shared by eight tokens, which set their bits of it
// with atomic operations, so that the bytes do not depend on who comes first.
#pragma once
#include <cuda_bf16.h>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/kv_page/kv_page_cuda.cuh"
#include "optiq/kernels/kv_page/kv_page_head.h"

namespace optiq::kernels::cuda {

/// A token's row of a float side.
__device__ inline void store_floats(const KvSide& side, std::byte* head, int token,
                                    int dim, const float* x, int lane) {
  const std::int64_t row = static_cast<std::int64_t>(token) * dim;
  std::byte* at = head + side.codes;
  for (int i = lane; i < dim; i += 32) {
    if (side.format.type == FloatType::kF32)
      reinterpret_cast<float*>(at)[row + i] = x[i];
    else if (side.format.type == FloatType::kF16)
      reinterpret_cast<__half*>(at)[row + i] = __float2half_rn(x[i]);
    else
      reinterpret_cast<__nv_bfloat16*>(at)[row + i] = __float2bfloat16_rn(x[i]);
  }
}

constexpr int kMostInGroup = 4;  // values of a lane in the largest affine group

// Codes of a group's n values, into `codes`; returns scale and bias.
__device__ inline float2 encode_affine(const float* x, int n, int bits,
                                       std::uint8_t* codes, int lane) {
  const int middle = 1 << (bits - 1);
  float v[kMostInGroup];
  float low = HUGE_VALF, high = -HUGE_VALF;
#pragma unroll
  for (int j = 0; j < kMostInGroup; ++j) {
    const int i = lane + 32 * j;
    v[j] = i < n ? x[i] : 0.0f;
    if (i < n) low = fminf(low, v[j]), high = fmaxf(high, v[j]);
  }
  low = -warp_max(-low);
  high = warp_max(high);
  const float center = 0.5f * low + 0.5f * high, range = high - low;
  float2 chosen{0, 0};
  float best = HUGE_VALF;
  const auto code = [&](float value, float2 s) {
    const float q = s.x > 0 ? rintf((value - s.y) / s.x) : 0.0f;
    return fminf(fmaxf(q, static_cast<float>(-middle)), static_cast<float>(middle - 1));
  };
  for (int step = 0; step < kClipSteps; ++step) {
    constexpr float kSteps[] = {.08f, .06f, .04f, .03f, .02f, .01f, .006f};
    const float kept = range * (1 - kSteps[bits - 2] * static_cast<float>(step));
    float2 s;
    s.x = __half2float(__float2half_rn(kept / static_cast<float>((1 << bits) - 1)));
    s.y = __half2float(
        __float2half_rn(center - kept / 2 + s.x * static_cast<float>(middle)));
    float error = 0;
#pragma unroll
    for (int j = 0; j < kMostInGroup; ++j) {
      const float off = v[j] - s.y - s.x * code(v[j], s);
      if (lane + 32 * j < n) error = fmaf(off, off, error);
    }
    error = warp_sum(error);
    if (!(error < best) && step > 0) continue;
    best = error;
    chosen = s;
  }
#pragma unroll
  for (int j = 0; j < kMostInGroup; ++j)
    if (lane + 32 * j < n)
      codes[lane + 32 * j] =
          static_cast<std::uint8_t>(static_cast<int>(code(v[j], chosen)) + middle);
  return chosen;
}

template <int bits>
__device__ inline float encode_turbo(const float* x, int n, bool keys,
                                     std::uint8_t* codes, int lane) {
  constexpr KvCodebook book = kKvCodebooks[bits - 1];
  float xx = 0;
  for (int i = lane; i < n; i += 32) xx = fmaf(x[i], x[i], xx);
  xx = warp_sum(xx);
  const float unit = xx > 0 ? book.unit * sqrtf(static_cast<float>(n) / xx) : 0.0f;
  float xc = 0, cc = 0;
  for (int i = lane; i < n; i += 32) {
    const float value = x[i] * unit;
    int code = 0;
#pragma unroll
    for (int level = 0; level + 1 < 1 << bits; ++level)
      code += value >
              0.5f * static_cast<float>(book.entries[level] + book.entries[level + 1]);
    codes[i] = static_cast<std::uint8_t>(code);
    const auto entry = static_cast<float>(book.entries[code]);
    xc = fmaf(x[i], entry, xc);
    cc = fmaf(entry, entry, cc);
  }
  xc = warp_sum(xc);
  cc = warp_sum(cc);
  return xx > 0 ? keys ? xx / xc : xc / cc : 0.0f;
}

// The part of `code` that a plane holds, at the place of `depth` in a word of it.
__device__ inline std::uint32_t in_plane(int code, int width, int up, int depth) {
  const int pair = depth / 8;
  const std::uint32_t part = code >> up & ((1 << width) - 1);
  return part << (8 * (depth % 4) + 4 * (depth / 4 % 2) + width * (pair % (4 / width)));
}

// A token's words of keys, each made whole.
__device__ inline void store_keys(const KvSide& side, std::byte* head, int token,
                                  int tiles, const std::uint8_t* codes, int lane) {
  const int bits = side.format.bits, first = first_plane(bits);
  auto* words = reinterpret_cast<std::uint32_t*>(head + side.codes) +
                static_cast<std::int64_t>(token / kTileLanes) * tiles * bits * 16 +
                token % kTileLanes;
  for (int i = lane; i < tiles * bits; i += 32) {
    const int vector = i % bits;
    const std::uint8_t* of_tile = codes + i / bits * kTileDepth;
    std::uint32_t word = 0;
    if (bits == 8) {
      for (int j = 0; j < 4; ++j)
        word |= static_cast<std::uint32_t>(of_tile[4 * vector + j]) << (8 * j);
    } else {
      const bool upper = vector >= first;
      const int width = upper ? bits - first : first, up = upper ? first : 0;
      const int in_word = 4 / width, pair = (vector - up) * in_word;
      for (int depth = 8 * pair; depth < 8 * (pair + in_word); ++depth)
        word |= in_plane(of_tile[depth], width, up, depth);
    }
    words[i * 16] = word;
  }
}

__device__ inline void set_bits(std::uint32_t* word, std::uint32_t mask,
                                std::uint32_t bits) {
  atomicAnd(word, ~mask);
  atomicOr(word, bits);
}

__device__ inline void store_values(const KvSide& side, std::byte* head, int token,
                                    int padded, const std::uint8_t* codes, int lane) {
  const int bits = side.format.bits, first = first_plane(bits);
  const int depth = token % kTileDepth, pair = depth / 8;
  for (int channel = lane; channel < padded; channel += 32) {
    std::byte* tile =
        head + side.codes +
        static_cast<std::int64_t>(channel / kTileLanes * (kPageTokens / kTileDepth) +
                                  token / kTileDepth) *
            64 * bits;
    const int at = channel % kTileLanes, code = codes[channel];
    if (bits == 8) {
      tile[64 * (depth / 4) + 4 * at + depth % 4] = static_cast<std::byte>(code);
      continue;
    }
    auto* words = reinterpret_cast<std::uint32_t*>(tile);
    const auto set = [&](int plane, int width) {
      set_bits(words + (plane + pair * width / 4) * kTileLanes + at,
               in_plane((1 << bits) - 1, width, plane, depth),
               in_plane(code, width, plane, depth));
    };
    set(0, first);
    if (bits > first) set(first, bits - first);
  }
}

/// A key or value of a token, which a warp codes; `codes`: room for a byte a channel.
__device__ inline void store_row(const KvSide& side, std::byte* head, bool keys,
                                 int token, int dim, const float* x,
                                 std::uint8_t* codes, int lane) {
  if (side.format.kind == KvKind::kFloat)
    return store_floats(side, head, token, dim, x, lane);
  const int step = keys ? kTileDepth : kTileLanes;
  const int padded = (dim + step - 1) / step * step;
  for (int i = dim + lane; i < padded; i += 32) codes[i] = 0;
  const int bits = side.format.bits;
  auto* scales = reinterpret_cast<__half*>(head + side.scales);
  auto* biases = reinterpret_cast<__half*>(head + side.biases);
  for (int group = 0; group < side.groups; ++group) {
    const int begin = group * side.group_values,
              n = min(side.group_values, dim - begin);
    bool finite = true;
    for (int i = lane; i < n; i += 32) finite = finite && isfinite(x[begin + i]);
    float2 s{0, 0};
    if (!__all_sync(~0u, finite)) {
      s.x = s.y = __int_as_float(0x7fc00000);
      for (int i = lane; i < n; i += 32) codes[begin + i] = 0;
    } else if (side.format.kind == KvKind::kAffine) {
      s = encode_affine(x + begin, n, bits, codes + begin, lane);
    } else {
      s.x = bits == 2   ? encode_turbo<2>(x, n, keys, codes, lane)
            : bits == 3 ? encode_turbo<3>(x, n, keys, codes, lane)
                        : encode_turbo<4>(x, n, keys, codes, lane);
    }
    if (lane == 0) {
      scales[group * kPageTokens + token] = __float2half_rn(s.x);
      if (side.format.kind == KvKind::kAffine)
        biases[group * kPageTokens + token] = __float2half_rn(s.y);
    }
  }
  __syncwarp();
  if (keys)
    store_keys(side, head, token, padded / kTileDepth, codes, lane);
  else
    store_values(side, head, token, padded, codes, lane);
}

}  // namespace optiq::kernels::cuda
