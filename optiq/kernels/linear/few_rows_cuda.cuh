// A few rows of x by a quantized matrix, on tensor cores, bound by the weights' bytes.
//
// Codes become half-precision whole numbers (or values of a small float format), which
// are exact, and x is rounded under the largest of its group: x ~ s (hi + lo), hi and
// lo in half precision. So mma.m16n8k16 (16 rows of W, 8 rows of x) sums code x exactly
// but for its float32 sums, and a group's sum is scaled once:
//     y += s (scale sum(code xh) + bias sum(xh)),   xh = hi + lo.
// Whole numbers come by writing a code into the mantissa of 64 (of 1024 for 8 bits);
// the bias takes those back, or, with hi and lo, a subtraction from each.
//
// In a step a warp takes 16 rows and 256 or 512 values of each; the warps of a block
// share K. Steps go to eight slots in turn, each summed for itself, so that a result
// does not depend on how many warps there are. Lane 4 r + t has row r and r + 8 of the
// fragment and the t-th quarter of every group: one load for each row and group. Inside
// a quarter, codes are taken in the order in which they unpack cheapest, and x lies in
// the same order: mma sums over k in any.
#pragma once
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/linear/linear_cuda.h"

namespace optiq::kernels::cuda {

inline constexpr int kTileRows = 16;  // of W, in a fragment
inline constexpr int kWarps = 8;      // of a block
inline constexpr int kSlots = 8;      // sums of K, however many warps share it
inline constexpr int kSharedBytes = 96 << 10;

// x made ready, in shared memory or the device's: [parts][M] rows of `row` halves in
// the order of the codes, and of each row and group its step s and s sum(xh). Rows go
// on with zeros to the end of a step.
struct ReadyX {
  __half* halves;
  float2* sums;            // [M, groups]
  std::int64_t row, part;  // halves from one to the next
  int groups;              // of a row, those of zeros among them
};

/// True where each block makes x ready for itself.
inline bool in_block(int M, int N, int K, int parts) {
  return M * parts <= 2 && N <= 8192 && M * parts * K * 4 <= kSharedBytes;
}

/// One product of a call.
struct FewRowsPart {
  const std::uint8_t* w;  // [N, K bits / 8]
  const void* scales;     // [N, K / group]
  const void* biases;     // affine only
  const void* bias;       // [N], or null
  const float* residual;  // [M, N], or null
  float* y;               // [M, N]
  int N;
  FloatType bias_type;
  int first_block;
};

inline constexpr int kMostParts = 4;

/// Products of one format and one x: a launch for all of them.
struct FewRowsArgs {
  const float* x;  // [M, K]
  FewRowsPart parts[kMostParts];
  int n_parts;
  int M, K;
  FloatType scale_type;
  void* scratch;
  ReadyX ready;
};

inline int rows_of_all(const FewRowsArgs& args) {
  int N = 0;
  for (int i = 0; i < args.n_parts; ++i) N += args.parts[i].N;
  return N;
}

__device__ inline float load_float_cuda(const void* data, std::int64_t i,
                                        FloatType type) {
  if (type == FloatType::kF32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  if (type == FloatType::kBF16)
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
  return __half2float(__ushort_as_half(bits));
}

/// One format.
template <QuantMode mode_, int bits_, int group_>
struct Format {
  static constexpr QuantMode mode = mode_;
  static constexpr int bits = bits_, group = group_;
  static constexpr int quarter = group / 4;  // codes of a lane in a group
  static constexpr int lane_bits = quarter * bits;
  static constexpr bool aligned = lane_bits % 32 == 0;  // quarters begin at words
  static constexpr int words = (lane_bits + 31) / 32;   // once they are shifted there
  static constexpr int words_read = [] {  // that hold a quarter, wherever it begins
    int most = 0;
    for (int t = 0; t < 4; ++t)
      most = std::max(most, (t * lane_bits % 32 + lane_bits + 31) / 32);
    return most;
  }();
  static constexpr bool affine = mode == QuantMode::kAffine;
  // Pairs of codes that one mask cuts out of a word.
  static constexpr bool halves = bits == 2 || bits == 4 || bits == 8;
  static constexpr int mmas = group / 16;
  // Narrow codes need more values under way to keep the memory busy.
  static constexpr int step = bits <= 3 ? 512 : 256;
  static constexpr int groups = step / group;

  // Which of a quarter's codes comes at place i of the order.
  __host__ __device__ static constexpr int code_at(int i) {
    if (!halves || lane_bits < 32) return i;
    constexpr int half = 16 / bits;  // codes in half a word
    const int word = i / (2 * half), rest = i % (2 * half);
    return word * 2 * half + rest / 2 + (rest % 2) * half;
  }
};

// The words of a quarter, its first code in the lowest bits of the first.
template <class F>
__device__ void load_quarter(const std::uint8_t* group, int t, std::uint32_t* words) {
  if constexpr (F::aligned) {
    const auto* from = reinterpret_cast<const std::uint32_t*>(group) + t * F::words;
    if constexpr (F::words % 4 == 0) {
#pragma unroll
      for (int i = 0; i < F::words; i += 4) {
        const uint4 v = __ldcs(reinterpret_cast<const uint4*>(from + i));
        words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
      }
    } else if constexpr (F::words % 2 == 0) {
#pragma unroll
      for (int i = 0; i < F::words; i += 2) {
        const uint2 v = __ldcs(reinterpret_cast<const uint2*>(from + i));
        words[i] = v.x, words[i + 1] = v.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < F::words; ++i) words[i] = __ldcs(from + i);
    }
  } else {
    // Of the group's whole words those that the quarter lies in.
    constexpr int in_group = F::group * F::bits / 32, read = F::words_read;
    const int bit = t * F::lane_bits, first = bit >> 5;
    const auto* from = reinterpret_cast<const std::uint32_t*>(group);
    std::uint32_t raw[read + 1];
#pragma unroll
    for (int i = 0; i < read; ++i) raw[i] = __ldcs(from + min(first + i, in_group - 1));
    raw[read] = 0;
#pragma unroll
    for (int i = 0; i < F::words; ++i)
      words[i] = __funnelshift_r(raw[i], raw[i + 1], bit & 31);
  }
}

// Pair p of the order: two codes as the halves of a register, `left` bits up.
template <class F, int left>
__device__ std::uint32_t raw_pair(const std::uint32_t* words, int p,
                                  std::uint32_t base = 0) {
  constexpr std::uint32_t mask = ((1u << F::bits) - 1) << left;
  const auto moved = [](std::uint32_t v, int right) {
    return right > 0 ? v >> right : v << -right;
  };
  if constexpr (F::halves && F::lane_bits >= 32) {
    constexpr int half = 16 / F::bits;
    return masked_onto<(mask | mask << 16)>(
        moved(words[p / half], F::bits * (p % half) - left), base);
  } else {
    const auto code = [&](int i) {
      const int bit = i * F::bits, word = bit >> 5, shift = bit & 31;
      std::uint32_t v = shift + F::bits > 32
                            ? __funnelshift_r(words[word], words[word + 1], shift)
                                  << left
                            : moved(words[word], shift - left);
      return v & mask;
    };
    return base | code(2 * p) | code(2 * p + 1) << 16;
  }
}

__device__ inline std::uint32_t bits_of(__half2 h) {
  return *reinterpret_cast<std::uint32_t*>(&h);
}
__device__ inline __half2 half2_of(std::uint32_t bits) {
  return *reinterpret_cast<__half2*>(&bits);
}

// What is left added to whole numbers: nothing where sums are to be exact, for it makes
// them larger, and their rounding with them.
template <class F, int parts>
inline constexpr float kOffset = !F::affine || parts == 2 ? 0.0f
                                 : F::bits == 8           ? 1024.0f
                                                          : 64.0f;

template <class F, int parts>
__device__ std::uint32_t value_pair(const std::uint32_t* words, int p) {
  if constexpr (F::affine) {
    // 1024 and ten bits of mantissa; or 64, whose mantissa's ones are bit 4.
    constexpr std::uint32_t base = F::bits == 8 ? 0x64006400u : 0x54005400u;
    const std::uint32_t raised = raw_pair<F, (F::bits == 8 ? 0 : 4)>(words, p, base);
    if constexpr (parts == 1) return raised;
    return bits_of(__hsub2(half2_of(raised), half2_of(base)));
  } else if constexpr (F::bits == 4) {
    // Its exponent's and mantissa's bits in the places of a half's, 2^14 too small.
    const std::uint32_t raw = raw_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00080008u) << 12 | (raw & 0x00070007u) << 9;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(16384.0f)));
  } else {
    const std::uint32_t raw = raw_pair<F, 0>(words, p);
    const std::uint32_t bits = (raw & 0x00800080u) << 8 | (raw & 0x007f007fu) << 7;
    return bits_of(__hmul2(half2_of(bits), __float2half2_rn(256.0f)));
  }
}

__device__ inline void mma(float* c, const std::uint32_t* a, std::uint32_t b0,
                           std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void load_pairs(const __half* from, std::uint32_t (&to)[4]) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ inline void load_pairs(const __half* from, std::uint32_t (&to)[2]) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  to[0] = v.x, to[1] = v.y;
}

// One quarter of a group of one row, on four neighbouring lanes at a time.
template <class F, int parts>
__device__ void make_ready(const float* x, int K, const ReadyX& to, int row,
                           int group) {
  const int t = threadIdx.x & 3, k = group * F::group + t * F::quarter;
  const float* from = x + static_cast<std::int64_t>(row) * K + k;
  const bool is_there = k < K;
  float v[F::quarter];
  float largest = 0;
#pragma unroll
  for (int i = 0; i < F::quarter; i += 4) {
    const float4 four =
        is_there ? *reinterpret_cast<const float4*>(from + i) : make_float4(0, 0, 0, 0);
    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
  }
#pragma unroll
  for (int i = 0; i < F::quarter; ++i) largest = fmaxf(largest, fabsf(v[i]));
  const unsigned four = 0xfu << (threadIdx.x & 28);
  largest = fmaxf(largest, __shfl_xor_sync(four, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(four, largest, 2));
  // The power of two above it: scaled values lie within [-1, 1].
  const std::uint32_t exponent =
      min(max((__float_as_uint(largest) >> 23) + 1, 24u), 252u);
  const float step = __uint_as_float(exponent << 23);
  const float inverse = __uint_as_float((254 - exponent) << 23);
  float sum = 0;
  __half2 hi[F::quarter / 2], lo[F::quarter / 2];
#pragma unroll
  for (int i = 0; i < F::quarter; i += 2) {
    const float p = v[F::code_at(i)] * inverse, q = v[F::code_at(i + 1)] * inverse;
    hi[i / 2] = __floats2half2_rn(p, q);
    float2 seen = __half22float2(hi[i / 2]);
    if constexpr (parts == 2) {
      lo[i / 2] = __floats2half2_rn(p - seen.x, q - seen.y);
      const float2 rest = __half22float2(lo[i / 2]);
      seen.x += rest.x, seen.y += rest.y;
    }
    sum += seen.x + seen.y;
  }
  __half* at = to.halves + row * to.row + k;
#pragma unroll
  for (int i = 0; i < F::quarter / 2; i += 2) {
    *reinterpret_cast<uint2*>(at + 2 * i) =
        make_uint2(bits_of(hi[i]), bits_of(hi[i + 1]));
    if constexpr (parts == 2)
      *reinterpret_cast<uint2*>(at + to.part + 2 * i) =
          make_uint2(bits_of(lo[i]), bits_of(lo[i + 1]));
  }
  sum += __shfl_xor_sync(four, sum, 1);
  sum += __shfl_xor_sync(four, sum, 2);
  if (t == 0) to.sums[row * to.groups + group] = make_float2(step, step * sum);
}

// For calls of so many rows that every block would do the same again.
template <class F, int parts>
__global__ void ready_rows(const __grid_constant__ FewRowsArgs a) {
  wait_for_inputs();
  const int groups = a.ready.groups;
  const int unit = (blockIdx.x * blockDim.x + threadIdx.x) / 4;
  if (unit < a.M * groups)
    make_ready<F, parts>(a.x, a.K, a.ready, unit / groups, unit % groups);
}

// Where a lane's two rows lie.
template <class F>
struct LaneRows {
  static constexpr int scale_size = F::affine ? 2 : 1;  // but of float32
  const std::uint8_t* codes[2];
  const std::uint8_t* scales[2];
  const std::uint8_t* biases[2];

  __device__ LaneRows(const FewRowsArgs& a, const FewRowsPart& part,
                      const int (&rows)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = rows[h], groups = a.K / F::group;
      const int size = F::affine && a.scale_type == FloatType::kF32 ? 4 : scale_size;
      codes[h] = part.w + row * (static_cast<std::int64_t>(a.K) / 8 * F::bits);
      scales[h] = static_cast<const std::uint8_t*>(part.scales) + row * groups * size;
      biases[h] = static_cast<const std::uint8_t*>(part.biases) + row * groups * size;
    }
  }
};

// What a warp has read of its rows for one step. Behind the end of a row it reads the
// row's first group again, which meets zeros of x.
template <class F, bool wide>
struct Step {
  static constexpr int scale_bytes = F::groups * (F::affine ? 2 : 1);
  static constexpr int scale_words = (scale_bytes + 3) / 4;
  std::uint32_t codes[F::groups][2][F::words];
  std::uint32_t scales[2][scale_words], biases[2][F::affine ? scale_words : 1];

  __device__ void load(const FewRowsArgs& a, const LaneRows<F>& rows, int t, int from) {
    // Rows of whole steps lie at places for wide loads.
    const bool whole = a.K % F::step == 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (whole) {
        const std::uint8_t* at = rows.codes[h] + from / 8 * F::bits;
#pragma unroll
        for (int g = 0; g < F::groups; ++g)
          load_quarter<F>(at + g * (F::group / 8 * F::bits), t, codes[g][h]);
        if constexpr (wide) continue;  // at their use
        const int first = from / F::group * LaneRows<F>::scale_size;
        load_scales(rows.scales[h] + first, scales[h]);
        if constexpr (F::affine) load_scales(rows.biases[h] + first, biases[h]);
      } else {
#pragma unroll
        for (int g = 0; g < F::groups; ++g) {
          const int k = from + g * F::group < a.K ? from + g * F::group : 0;
          load_quarter<F>(rows.codes[h] + k / 8 * F::bits, t, codes[g][h]);
          if constexpr (wide) continue;
          pick_scale(rows.scales[h], k / F::group, g, scales[h]);
          if constexpr (F::affine)
            pick_scale(rows.biases[h], k / F::group, g, biases[h]);
        }
      }
    }
  }

  __device__ static void load_scales(const std::uint8_t* at,
                                     std::uint32_t (&to)[scale_words]) {
    if constexpr (scale_bytes >= 16) {
#pragma unroll
      for (int i = 0; i < scale_words; i += 4) {
        const uint4 v = __ldg(reinterpret_cast<const uint4*>(at) + i / 4);
        to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
      }
    } else if constexpr (scale_bytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(at));
      to[0] = v.x, to[1] = v.y;
    } else {
      to[0] = __ldg(reinterpret_cast<const std::uint32_t*>(at));
    }
  }

  __device__ static void pick_scale(const std::uint8_t* row, int group, int g,
                                    std::uint32_t (&to)[scale_words]) {
    constexpr int size = LaneRows<F>::scale_size;
    const std::uint32_t bits =
        size == 2 ? static_cast<std::uint32_t>(
                        reinterpret_cast<const std::uint16_t*>(row)[group])
                  : static_cast<std::uint32_t>(row[group]);
    const int shift = 8 * (g * size % 4);
    std::uint32_t& word = to[g * size / 4];
    word = (shift == 0 ? 0 : word) | bits << shift;
  }

  __device__ float scale(const FewRowsArgs& a, const std::uint32_t* words,
                         const std::uint8_t* row, int from, int g) const {
    if constexpr (F::affine) {
      if constexpr (wide) {
        const int k = from + g * F::group < a.K ? from + g * F::group : 0;
        return reinterpret_cast<const float*>(row)[k / F::group];
      }
      const std::uint32_t bits = words[g / 2] >> (16 * (g % 2)) & 0xffff;
      return a.scale_type == FloatType::kBF16
                 ? __uint_as_float(bits << 16)
                 : __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    } else {
      const std::uint32_t code = words[g / 4] >> (8 * (g % 4)) & 0xff;
      if constexpr (F::mode == QuantMode::kNvfp4) {
        const std::uint32_t bits = (code & 0x80u) << 8 | (code & 0x7fu) << 7;
        return __half2float(__ushort_as_half(static_cast<unsigned short>(bits))) *
               256.0f;
      } else {
        return code == 0 ? 0x1p-127f : __uint_as_float(code << 23);
      }
    }
  }
};

/// A block has `row_warps` tiles of 16 rows; the warps of one tile share K. `in_block`:
/// every block makes x ready for itself, in shared memory. `wide`: affine scales are
/// float32.
template <class F, int tiles, int parts, int row_warps, bool in_block, bool wide>
__global__ void __launch_bounds__(kWarps * 32, tiles == 4 ? 1 : 2)
    few_rows(const __grid_constant__ FewRowsArgs a) {
  extern __shared__ __align__(16) char shared[];
  constexpr int k_warps = kWarps / row_warps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  int which = 0;
  while (which + 1 < a.n_parts &&
         static_cast<int>(blockIdx.x) >= a.parts[which + 1].first_block)
    ++which;
  const FewRowsPart part = a.parts[which];
  const int block = blockIdx.x - part.first_block;
  const int tile = block * row_warps + warp % row_warps;
  const int rows[2] = {min(tile * kTileRows + r, part.N - 1),
                       min(tile * kTileRows + r + 8, part.N - 1)};
  const LaneRows<F> at(a, part, rows);

  Step<F, wide> even, odd;
  int from = warp / row_warps * F::step;
  constexpr int stride = k_warps * F::step;
  // The weights, which no kernel writes, are under way while x is made ready.
  if (from < a.K) even.load(a, at, t, from);
  wait_for_inputs();
  ReadyX x = a.ready;
  if constexpr (in_block) {
    x.groups = a.ready.groups;
    x.row = x.groups * F::group + 8;
    x.part = a.M * x.row;
    x.halves = reinterpret_cast<__half*>(shared);
    x.sums = reinterpret_cast<float2*>(shared + sizeof(__half) * parts * x.part);
    for (int row = 0; row < a.M; ++row)
      for (int group = threadIdx.x / 4; group < x.groups; group += kWarps * 8)
        make_ready<F, parts>(a.x, a.K, x, row, group);
    __syncthreads();
  }

  // Of rows that are not there some other's values do: their sums go nowhere.
  int in_x[tiles], in_sums[tiles][2];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    in_x[n] = min(n * 8 + r, a.M - 1) * static_cast<int>(x.row) + t * F::quarter;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      in_sums[n][j] = min(n * 8 + 2 * t + j, a.M - 1) * x.groups;
  }

  constexpr int slots = kSlots / k_warps;  // of this warp
  float y[slots][tiles][4] = {};
  const auto add = [&](const Step<F, wide>& step, int begin, float(&sums)[tiles][4]) {
#pragma unroll
    for (int g = 0; g < F::groups; ++g) {
      float c[tiles][4] = {};
      constexpr int width = F::mmas > 1 ? 2 : 1;  // products of one load of x
#pragma unroll
      for (int m = 0; m < F::mmas; m += width) {
        std::uint32_t f[width][4];
#pragma unroll
        for (int i = 0; i < 4 * width; ++i)
          f[i / 4][i % 4] = value_pair<F, parts>(step.codes[g][i % 2], 2 * m + i / 2);
#pragma unroll
        for (int n = 0; n < tiles; ++n)
#pragma unroll
          for (int part = 0; part < parts; ++part) {
            std::uint32_t b[2 * width];
            load_pairs(
                x.halves + part * x.part + (in_x[n] + begin + g * F::group + 4 * m), b);
#pragma unroll
            for (int i = 0; i < width; ++i) mma(c[n], f[i], b[2 * i], b[2 * i + 1]);
          }
      }
      float scale[2], bias[2] = {0, 0};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        scale[h] = step.scale(a, step.scales[h], at.scales[h], begin, g);
        if constexpr (F::affine)
          bias[h] = fmaf(-kOffset<F, parts>, scale[h],
                         step.scale(a, step.biases[h], at.biases[h], begin, g));
      }
#pragma unroll
      for (int n = 0; n < tiles; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float2 s = x.sums[in_sums[n][j] + begin / F::group + g];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float& sum = sums[n][2 * h + j];
            sum = fmaf(scale[h] * s.x, c[n][2 * h + j], sum);
            if constexpr (F::affine) sum = fmaf(bias[h], s.y, sum);
          }
        }
    }
  };
  while (from < a.K) {
    if (from + stride < a.K) odd.load(a, at, t, from + stride);
    add(even, from, y[0]);
    from += stride;
    if (from >= a.K) break;
    if (from + stride < a.K) even.load(a, at, t, from + stride);
    add(odd, from, y[slots - 1]);
    from += stride;
  }

  // The slots of each tile in their order.
  __syncthreads();
  auto* sums = reinterpret_cast<float*>(shared);  // [kSlots][row_warps][tiles][32][4]
#pragma unroll
  for (int slot = 0; slot < slots; ++slot)
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      const int at = (slot * kWarps + warp) * tiles + n;
      *reinterpret_cast<float4*>(sums + (at * 32 + lane) * 4) =
          make_float4(y[slot][n][0], y[slot][n][1], y[slot][n][2], y[slot][n][3]);
    }
  __syncthreads();
  for (int i = threadIdx.x; i < row_warps * tiles * 128; i += kWarps * 32) {
    const int of_tile = i / (tiles * 128), n = i / 128 % tiles;
    const int of_lane = i / 4 % 32, j = i % 4;
    const int row =
        (block * row_warps + of_tile) * kTileRows + of_lane / 4 + 8 * (j / 2);  // of W
    const int m = n * 8 + 2 * (of_lane % 4) + j % 2;                            // of x
    if (row >= part.N || m >= a.M) continue;
    float sum = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      sum += sums[slot * row_warps * tiles * 128 + i];
    if (part.bias) sum += load_float_cuda(part.bias, row, part.bias_type);
    const std::int64_t at = static_cast<std::int64_t>(m) * part.N + row;
    if (part.residual) sum += part.residual[at];
    part.y[at] = sum;
  }
}

template <class F, int tiles, int parts, int row_warps, bool in_block,
          bool wide = false>
void start_few_rows(FewRowsArgs args, const Launcher& launch) {
  constexpr auto kernel = few_rows<F, tiles, parts, row_warps, in_block, wide>;
  const std::size_t of_x =
      !in_block
          ? 0
          : args.M * (sizeof(__half) * parts * (args.ready.groups * F::group + 8) +
                      sizeof(float2) * args.ready.groups);
  const std::size_t of_sums = sizeof(float) * kSlots * row_warps * tiles * 128;
  static const cudaError_t allowed = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (allowed != cudaSuccess) throw std::runtime_error(cudaGetErrorString(allowed));
  void* arguments[] = {&args};
  const int block_rows = kTileRows * row_warps;
  int blocks = 0;
  for (int i = 0; i < args.n_parts; ++i) {
    args.parts[i].first_block = blocks;
    blocks += (args.parts[i].N + block_rows - 1) / block_rows;
  }
  launch(reinterpret_cast<const void*>(kernel),
         {static_cast<unsigned>(blocks), 1, 1, kWarps * 32, std::max(of_x, of_sums)},
         arguments);
}

template <class F, int parts>
void few_rows_in_parts(FewRowsArgs args, const Launcher& launch) {
  args.ready.groups = (args.K + F::step - 1) / F::step * F::groups;
  const int K = args.ready.groups * F::group;  // with the zeros
  const bool wide = F::affine && args.scale_type == FloatType::kF32;
  if (!wide && in_block(args.M, rows_of_all(args), K, parts))
    return start_few_rows<F, 1, parts, 1, true>(args, launch);
  const std::int64_t values = static_cast<std::int64_t>(args.M) * K;
  args.ready.row = K;
  args.ready.part = values;
  args.ready.halves = static_cast<__half*>(args.scratch);
  args.ready.sums = reinterpret_cast<float2*>(args.ready.halves + parts * values);
  void* arguments[] = {&args};
  const std::int64_t threads = values / F::quarter;
  launch(reinterpret_cast<const void*>(&ready_rows<F, parts>),
         {static_cast<unsigned>((threads + 127) / 128), 1, 1, 128}, arguments);
  if constexpr (F::affine)  // rare: one kernel for any number of rows
    if (wide) return start_few_rows<F, 4, parts, 2, false, true>(args, launch);
  if (args.M <= 8) return start_few_rows<F, 1, parts, 2, false>(args, launch);
  if (args.M <= 16) return start_few_rows<F, 2, parts, 2, false>(args, launch);
  start_few_rows<F, 4, parts, 2, false>(args, launch);
}

template <class F>
void few_rows_of(const FewRowsArgs& args, bool exact, const Launcher& launch) {
  if (exact)
    few_rows_in_parts<F, 2>(args, launch);
  else
    few_rows_in_parts<F, 1>(args, launch);
}

/// One for each width, each in a source of its own: they take long to compile.
using FewRows = void (*)(const FewRowsArgs& args, int group, bool exact,
                         const Launcher& launch);
void few_rows_2(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_3(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_4(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_5(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_6(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_8(const FewRowsArgs&, int group, bool exact, const Launcher&);
void few_rows_fp(const FewRowsArgs&, QuantMode mode, bool exact, const Launcher&);

template <int bits>
void few_rows_affine(const FewRowsArgs& args, int group, bool exact,
                     const Launcher& launch) {
  if (group == 32)
    return few_rows_of<Format<QuantMode::kAffine, bits, 32>>(args, exact, launch);
  if (group == 64)
    return few_rows_of<Format<QuantMode::kAffine, bits, 64>>(args, exact, launch);
  few_rows_of<Format<QuantMode::kAffine, bits, 128>>(args, exact, launch);
}

}  // namespace optiq::kernels::cuda
