// What the CUDA kernels over pages share: where a head lies, a code's words, rotations.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/kv_page/kv_codebook.h"
#include "optiq/kernels/kv_page/kv_page_cuda.h"

namespace optiq::kernels::cuda {

/// kv_page_head.h's, for one sequence's part of the table.
struct HeadInPage {
  const KvLayout* layout;
  std::byte* at;
};
__device__ inline HeadInPage head_in_page(const PageForm& form, std::byte* const* table,
                                          int page, int head) {
  const bool is_float = page < form.float_pages;
  const KvLayout& layout = is_float ? form.float_layout : form.coded_layout;
  return {&layout, table[page] + (is_float ? form.float_offset : form.coded_offset) +
                       head * layout.head_bytes};
}

/// The sequence that a row belongs to.
__device__ inline int sequence_of(const PagedBatch& batch, int row, int lane) {
  for (int first = 0; first < batch.n_sequences; first += 32) {
    const int i = first + lane;
    const bool here = i < batch.n_sequences && row >= batch.sequences[i].row &&
                      row < batch.sequences[i].row + batch.sequences[i].tokens;
    if (const unsigned found = __ballot_sync(~0u, here))
      return first + __ffs(found) - 1;
  }
  return -1;
}

/// Bits of the first and second plane of a width (kv_layout.h).
__host__ __device__ constexpr int first_plane(int bits) {
  return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
}

/// Codes of depth 8 pair to 8 pair + 7 of a lane of a tile, a byte each.
struct EightCodes {
  std::uint32_t low, high;
};

template <int width>
__device__ inline std::uint32_t plane_nibbles(const std::uint32_t* plane, int lane,
                                              int pair) {
  constexpr int in_word = 4 / width;
  return plane[pair / in_word * kTileLanes + lane] >> (width * (pair % in_word));
}

template <int bits>
__device__ inline EightCodes load_codes(const std::uint32_t* tile, int lane, int pair) {
  if constexpr (bits == 8) {
    return {tile[2 * pair * kTileLanes + lane],
            tile[(2 * pair + 1) * kTileLanes + lane]};
  } else {
    constexpr int first = first_plane(bits), second = bits - first;
    constexpr std::uint32_t mask = ((1u << first) - 1) * 0x01010101u;
    const std::uint32_t n = plane_nibbles<first>(tile, lane, pair);
    EightCodes codes{n & mask, n >> 4 & mask};
    if constexpr (second > 0) {
      constexpr std::uint32_t upper = ((1u << second) - 1) * 0x01010101u;
      const std::uint32_t m =
          plane_nibbles<second>(tile + first * kTileLanes, lane, pair);
      codes.low |= (m & upper) << first;
      codes.high |= (m >> 4 & upper) << first;
    }
    return codes;
  }
}

/// Four bytes by a codebook's entries, each with kCodebookZero + 1 added.
template <int bits>
__device__ inline std::uint32_t entries_of(std::uint32_t codes) {
  constexpr KvCodebook book = kKvCodebooks[bits - 1];
  const auto four = [&](int i) constexpr {
    std::uint32_t word = 0;
    for (int j = 0; j < 4; ++j)
      word |= static_cast<std::uint32_t>(book.entries[i + j] + kCodebookZero + 1)
              << (8 * j);
    return word;
  };
  // Bytes to the nibbles that choose.
  const std::uint32_t pairs = codes | codes >> 4;
  const std::uint32_t chosen = __byte_perm(pairs, 0, 0x0020);
  const std::uint32_t below = __byte_perm(four(0), four(4), chosen & 0x7777);
  if constexpr (bits < 4) return below;
  const std::uint32_t above = __byte_perm(four(8), four(12), chosen & 0x7777);
  const std::uint32_t mask = (codes >> 3 & 0x01010101u) * 0xff;
  return (below & ~mask) | (above & mask);
}

/// Eight codes as whole halves, without scale and bias: two in each.
template <int bits, bool turbo>
__device__ inline void whole_halves(EightCodes codes, __half2 (&to)[4]) {
  if constexpr (turbo) {
    codes.low = entries_of<bits>(codes.low);
    codes.high = entries_of<bits>(codes.high);
  }
  // A byte in the mantissa of 1024 (2^10, whose mantissa's last bit is one).
  constexpr float kMiddle = turbo ? kCodebookZero + 1 : 1 << (bits - 1);
  const __half2 middle = __float2half2_rn(1024 + kMiddle);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    to[i] = __hsub2(half2_of(__byte_perm(i < 2 ? codes.low : codes.high, 0x64646464u,
                                         i % 2 ? 0x4342 : 0x4140)),
                    middle);
}

/// One code as a whole number, for kernels that take values one by one.
__device__ inline float whole_value(const KvSide& side, const std::byte* tile, int lane,
                                    int depth) {
  const int bits = side.format.bits, pair = depth / 8;
  const auto* words = reinterpret_cast<const std::uint32_t*>(tile);
  int code;
  if (bits == 8) {
    code = words[depth / 4 * kTileLanes + lane] >> (8 * (depth % 4)) & 0xff;
  } else {
    const auto of_plane = [&](int plane, int width) {
      const int in_word = 4 / width;
      const std::uint32_t word = words[(plane + pair / in_word) * kTileLanes + lane];
      return static_cast<int>(word >> (8 * (depth % 4) + 4 * (depth / 4 % 2) +
                                       width * (pair % in_word))) &
             ((1 << width) - 1);
    };
    const int first = first_plane(bits);
    code = of_plane(0, first);
    if (bits > first) code |= of_plane(first, bits - first) << first;
  }
  if (side.format.kind == KvKind::kAffine)
    return static_cast<float>(code - (1 << (bits - 1)));
  constexpr KvCodebook two = kKvCodebooks[1], three = kKvCodebooks[2],
                       four = kKvCodebooks[3];
  return bits == 2   ? two.entries[code]
         : bits == 3 ? three.entries[code]
                     : four.entries[code];
}

__device__ inline float half_at(const std::byte* at, std::int64_t i) {
  return __half2float(reinterpret_cast<const __half*>(at)[i]);
}

/// A stored value of a token.
template <bool keys>
__device__ inline float stored_value(const KvSide& side, const std::byte* head,
                                     int channel, int token, int head_dim) {
  if (side.format.kind == KvKind::kFloat)
    return float_at(head + side.codes,
                    static_cast<std::int64_t>(token) * head_dim + channel,
                    side.format.type);
  const int tiles =
      keys ? (head_dim + kTileDepth - 1) / kTileDepth : kPageTokens / kTileDepth;
  const int lane = keys ? token : channel, depth = keys ? channel : token;
  const std::byte* tile =
      head + side.codes +
      static_cast<std::int64_t>(lane / kTileLanes * tiles + depth / kTileDepth) * 64 *
          side.format.bits;
  const float whole = whole_value(side, tile, lane % kTileLanes, depth % kTileDepth);
  const std::int64_t at = channel / side.group_values * kPageTokens + token;
  const float bias =
      side.format.kind == KvKind::kAffine ? half_at(head + side.biases, at) : 0.0f;
  return fmaf(half_at(head + side.scales, at), whole, bias);
}

/// x = H x over blocks of powers of two (kv_layout.h), by one warp, in shared memory.
__device__ inline void hadamard(float* x, int n, int lane) {
#pragma unroll 1
  for (int done = 0; done < n;) {
    const int block = 1 << (31 - __clz(n - done));
#pragma unroll 1
    for (int step = 1; step < block; step *= 2) {
      __syncwarp();
#pragma unroll 1

      for (int i = lane; i < block / 2; i += 32) {
        const int at = done + i / step * 2 * step + i % step;
        const float a = x[at], b = x[at + step];
        x[at] = a + b;
        x[at + step] = a - b;
      }
    }
    done += block;
  }
  __syncwarp();
}

/// By one warp, whose lanes have written x in turn.
__device__ inline void multiply_by(float* x, const float* factors, int n, int lane) {
  if (!factors) return;
  for (int i = lane; i < n; i += 32) x[i] *= factors[i];
  __syncwarp();
}

__device__ inline float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

__device__ inline const float* of_head_cuda(const float* channels, int head, int dim) {
  return channels ? channels + static_cast<std::int64_t>(head) * dim : nullptr;
}

}  // namespace optiq::kernels::cuda
