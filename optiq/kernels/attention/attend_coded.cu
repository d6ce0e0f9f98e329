// Up to eight rows of one kv head over a chunk of coded pages, page by page by one warp
// alone: pages come as they are into shared memory while the one before is at work, and
// codes through registers to the tensor cores. The warps of a block share a chunk, and
// put their sums together.
//
// Both products have the pages on the left (mma.m16n8k16): scores^T = K q^T, sixteen
// tokens by the rows; y^T = V^T p^T, sixteen channels by the rows. Codes are exact as
// halves, raised by a number that costs nothing to add (raised_halves) and is taken
// back from the sums. So scales and biases stay out of the products: those of keys meet
// a group's sum, score = s sum(code q) + b sum(q); a value's scale multiplies its
// weight, and the biases are rows of a product of their own, since sum_t p (s code + b)
// falls apart.
//
// A step takes 32 tokens, as many as a tile of values has depth: a page's code at once
// would not fit where instructions are kept. Lane 4 g + t has token (channel) g and g +
// 8 of a tile, and of its depth the eight codes of pair t (kv_layout.h). A product sums
// over its depth in any order, so queries lie in that of the codes; weights are brought
// into it by transposing in registers.
#include <algorithm>

#include "optiq/kernels/attention/bring_in.cuh"
#include "optiq/kernels/attention/finish_cuda.cuh"
#include "optiq/kernels/attention/page_tile_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kRows = 8;
constexpr int kWarps = 4;

// What is added to whole numbers on their way to halves: 64, in whose mantissa the ones
// are bit 4, or 1024, where they are bit 0; and the middle of the codes.
template <int bits, bool turbo>
inline constexpr bool kByNibbles = bits <= 4 && !turbo;
template <int bits, bool turbo>
inline constexpr float kRaised = (kByNibbles<bits, turbo> ? 64 : 1024) +
                                 (turbo ? kCodebookZero + 1 : 1 << (bits - 1));

// The words of a lane of tiles, for one of the four pairs of columns: those of the two
// planes, from where `at` tiles are so many bytes apart.
template <int bits>
struct LaneWords {
  static constexpr int first = first_plane(bits), second = bits - first;

  const std::byte* low;
  const std::byte* high;
  int low_shift, high_shift;

  __device__ LaneWords(const std::byte* codes, int lane, int pair) {
    if constexpr (bits == 8) {
      low = high = codes + 4 * (2 * pair * kTileLanes + lane);
    } else {
      low = codes + 4 * (pair * first / 4 * kTileLanes + lane);
      low_shift = first * (pair % (4 / first));
      if constexpr (second > 0) {
        high = codes + 4 * ((first + pair * second / 4) * kTileLanes + lane);
        high_shift = second * (pair % (4 / second));
      }
    }
  }

  __device__ std::uint32_t first_word(int at) const {
    const auto word = *reinterpret_cast<const std::uint32_t*>(low + at);
    return first == 4 || first == 8 ? word : word >> low_shift;
  }
  __device__ std::uint32_t second_word(int at) const {
    return *reinterpret_cast<const std::uint32_t*>(high + at) >> high_shift;
  }
};

// The eight codes of a pair of columns, raised: depths 0 1, 2 3, 4 5, 6 7, or, by
// nibbles, 0 2, 1 3, 4 6, 5 7.
template <int bits, bool turbo>
__device__ void raised_halves(const LaneWords<bits>& words, int at,
                              std::uint32_t (&to)[4]) {
  constexpr int first = first_plane(bits), second = bits - first;
  constexpr std::uint32_t kLow = ((1u << first) - 1) * 0x01010101u;
  constexpr std::uint32_t kHigh = ((1u << second) - 1) * 0x01010101u;
  if constexpr (kByNibbles<bits, turbo>) {
    std::uint32_t n = words.first_word(at);
    if constexpr (second > 0)
      n = (n & kLow * 0x11) | (words.second_word(at) & kHigh * 0x11) << first;
    constexpr std::uint32_t mask = ((1u << bits) - 1) * 0x00100010u;
    constexpr std::uint32_t base = 0x54005400u;
    to[0] = masked_onto<mask>(n << 4, base);
    to[1] = masked_onto<mask>(n >> 4, base);
    to[2] = masked_onto<mask>(n, base);
    to[3] = masked_onto<mask>(n >> 8, base);
  } else {
    std::uint32_t low, high;
    if constexpr (bits == 8) {
      low = words.first_word(at);
      high = words.first_word(at + 4 * kTileLanes);
    } else {
      const std::uint32_t n = words.first_word(at);
      low = n & kLow;
      high = n >> 4 & kLow;
      if constexpr (second > 0) {
        const std::uint32_t m = words.second_word(at);
        low |= (m & kHigh) << first;
        high |= (m >> 4 & kHigh) << first;
      }
    }
    if constexpr (turbo) {
      low = entries_of<bits>(low);
      high = entries_of<bits>(high);
    }
    to[0] = __byte_perm(low, 0x64646464u, 0x4140);
    to[1] = __byte_perm(low, 0x64646464u, 0x4342);
    to[2] = __byte_perm(high, 0x64646464u, 0x4140);
    to[3] = __byte_perm(high, 0x64646464u, 0x4342);
  }
}

// Halves of depths 0 to 7 in the order of nibbles.
__device__ void order_by_nibbles(std::uint32_t (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const std::uint32_t even = __byte_perm(x[i], x[i + 1], 0x5410);
    x[i + 1] = __byte_perm(x[i], x[i + 1], 0x7632);
    x[i] = even;
  }
}

// One warp's part of a call.
template <int D>
struct Warp {
  static constexpr int kDepths = D / kTileDepth;    // tiles of a token's channels
  static constexpr int kChannels = D / kTileLanes;  // tiles of channels

  int g, t;
  std::uint32_t q[kDepths][4];  // the row g's, in the order of codes
  float2 q_sums[kDepths];       // of 32 channels, rows 2 t and 2 t + 1
  float scores[2][4];           // tokens g and g + 8 of 16, rows 2 t and 2 t + 1
  std::uint32_t p[4];           // weights of row g, tokens 8 t to 8 t + 7
  float y[kChannels][4] = {};   // channels g and g + 8, rows 2 t and 2 t + 1
  float by_bias[4] = {};        // groups in the place of channels

  // Of tokens [token, token + 32) of a page.
  template <int bits, bool turbo>
  __device__ void score(const KvSide& side, const std::byte* head, int token);
  template <int bits, bool turbo>
  __device__ void sum(const KvSide& side, const std::byte* head, int token, int end,
                      const float (&before)[2]);
  __device__ void order_weights();
};

template <int D>
template <int bits, bool turbo>
__device__ void Warp<D>::score(const KvSide& side, const std::byte* head, int token) {
  constexpr int kTileBytes = 64 * bits;
  const LaneWords<bits> words(
      head + side.codes + token / kTileLanes * kDepths * kTileBytes, g, t);
  const std::byte* scales = head + side.scales + 2 * (token + g);
  const std::byte* biases = head + side.biases + 2 * (token + g);
  // A group's tiles of depth: a power of two, or all.
  const int in_group = turbo ? kDepths : side.group_values / kTileDepth - 1;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[m][i] = 0;
  float c[2][4] = {};
  float2 q_sum{0, 0};
  int group = 0;
#pragma unroll
  for (int depth = 0; depth < kDepths; ++depth) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int at = (m * kDepths + depth) * kTileBytes;
      std::uint32_t low[4], high[4];
      raised_halves<bits, turbo>(words, at, low);
      raised_halves<bits, turbo>(words, at + 4 * 8, high);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const std::uint32_t a[4] = {low[2 * step], high[2 * step], low[2 * step + 1],
                                    high[2 * step + 1]};
        multiply_add(c[m], a, q[depth][2 * step], q[depth][2 * step + 1]);
      }
    }
    q_sum.x += q_sums[depth].x;
    q_sum.y += q_sums[depth].y;
    if (depth + 1 < kDepths && (turbo || (depth & in_group) != in_group)) continue;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = group + 16 * m + 8 * h;
        const float scale = half_at(scales, at);
        const float bias =
            fmaf(-kRaised<bits, turbo>, scale, turbo ? 0.0f : half_at(biases, at));
        float(&to)[4] = scores[m];
        to[2 * h] = fmaf(scale, c[m][2 * h], fmaf(bias, q_sum.x, to[2 * h]));
        to[2 * h + 1] =
            fmaf(scale, c[m][2 * h + 1], fmaf(bias, q_sum.y, to[2 * h + 1]));
        c[m][2 * h] = c[m][2 * h + 1] = 0;
      }
    q_sum = {0, 0};
    group += kPageTokens;
  }
}

// From scores' places, token g of rows 2 t and 2 t + 1 (here in halves), to those of a
// right operand: of row g the tokens 8 t to 8 t + 7.
template <int D>
__device__ void Warp<D>::order_weights() {
#pragma unroll
  for (int i = 0; i < 4; ++i) p[i] = transposed(p[i]);
  // Now tokens 8 i + 2 t and the next: four words by four lanes, transposed.
  const auto exchange = [&](int i, int j, int lanes) {
    const std::uint32_t got = __shfl_xor_sync(~0u, t & lanes ? p[i] : p[j], lanes);
    (t & lanes ? p[i] : p[j]) = got;
  };
  exchange(0, 1, 1);
  exchange(2, 3, 1);
  exchange(0, 2, 2);
  exchange(1, 3, 2);
}

template <int D>
template <int bits, bool turbo>
__device__ void Warp<D>::sum(const KvSide& side, const std::byte* head, int token,
                             int end, const float (&before)[2]) {
  constexpr int kTileBytes = 64 * bits, kBlocks = kPageTokens / kTileDepth;
  const LaneWords<bits> words(head + side.codes + token / kTileDepth * kTileBytes, g,
                              t);
  const std::byte* scales = head + side.scales + 2 * (token + 8 * t);
  const int in_group = turbo ? 0 : side.group_values / kTileLanes - 1;
  std::uint32_t scaled[4];
  float step = 1, all[4] = {};  // all: the group's scaled weights
  constexpr std::uint32_t kOne = 0x3c003c00u;
  constexpr std::uint32_t kOnes[4] = {kOne, kOne, kOne, kOne};
#pragma unroll
  for (int tile = 0; tile < kChannels; ++tile) {
    if (tile == 0 || (!turbo && (tile & in_group) == 0)) {
      // Weights by the group's scales, which are brought near one: products of small
      // numbers would leave the range of halves.
      const uint4 v =
          before_end(*reinterpret_cast<const uint4*>(scales), token + 8 * t, end);
      scales += 2 * kPageTokens;
      const __half2 s[4] = {half2_of(v.x), half2_of(v.y), half2_of(v.z), half2_of(v.w)};
      const __half2 most = __hmax2(__hmax2(__habs2(s[0]), __habs2(s[1])),
                                   __hmax2(__habs2(s[2]), __habs2(s[3])));
      float largest = fmaxf(__low2float(most), __high2float(most));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      const std::uint32_t exponent =
          min(max(__float_as_uint(largest) >> 23, 127u - 14), 127u + 14);
      step = __uint_as_float(exponent << 23);
      const __half2 inverse = __float2half2_rn(__uint_as_float((254 - exponent) << 23));
#pragma unroll
      for (int i = 0; i < 4; ++i)
        scaled[i] = bits_of(__hmul2(half2_of(p[i]), __hmul2(s[i], inverse)));
      if constexpr (kByNibbles<bits, turbo>) order_by_nibbles(scaled);
#pragma unroll
      for (int i = 0; i < 4; ++i) all[i] = 0;
      multiply_add(all, kOnes, scaled[0], scaled[1]);
      multiply_add(all, kOnes, scaled[2], scaled[3]);
    }
    const int at = tile * kBlocks * kTileBytes;
    float c[4] = {};
    std::uint32_t low[4], high[4];
    raised_halves<bits, turbo>(words, at, low);
    raised_halves<bits, turbo>(words, at + 4 * 8, high);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t a[4] = {low[2 * half], high[2 * half], low[2 * half + 1],
                                  high[2 * half + 1]};
      multiply_add(c, a, scaled[2 * half], scaled[2 * half + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      y[tile][i] = fmaf(fmaf(-kRaised<bits, turbo>, all[i], c[i]), step,
                        y[tile][i] * before[i % 2]);
  }
  if constexpr (!turbo) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (g < side.groups)
      v = before_end(*reinterpret_cast<const uint4*>(
                         head + side.biases + 2 * (g * kPageTokens + token + 8 * t)),
                     token + 8 * t, end);
    const std::uint32_t first[4] = {v.x, 0, v.y, 0}, second[4] = {v.z, 0, v.w, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) by_bias[i] *= before[i % 2];
    multiply_add(by_bias, first, p[0], p[1]);
    multiply_add(by_bias, second, p[2], p[3]);
  }
}

// Grid: chunks, tiles of all kv heads, sequences.
template <int D>
__global__ void __launch_bounds__(32 * kWarps, D > 128  ? 2
                                               : D > 96 ? 3
                                                        : 4)
    attend_coded_rows(const __grid_constant__ BringingArgs args) {
  wait_for_inputs();
  const AttendArgs& a = args.attend;
  const PagedRows s = a.batch.sequences[blockIdx.z];
  const int tile = blockIdx.y / a.n_kv_heads, head = blockIdx.y % a.n_kv_heads;
  const int rows = s.tokens * a.group, first = tile * kRows;
  if (s.tokens > kFewTokens || first >= rows) return;
  const int last = min(first + kRows, rows) - 1;
  const int chunk = chunk_keys(a, s.cached + s.tokens), which = blockIdx.x;
  const int self = threadIdx.x / 32, lane = threadIdx.x % 32;
  const KeyRange met = keys_of(a, s, first, last);
  const int begin = max(met.begin, which * chunk);
  const int end = min(met.end, (which + 1) * chunk);
  if (begin >= end) return;

  extern __shared__ __align__(16) std::byte memory[];
  __shared__ __align__(16) float parts[kWarps][kRows][D];
  const int first_page = begin / kPageTokens + self;
  const int first_new = a.queries ? end : first_entering(args, s, begin, end);
  // What the block enters itself is asked for once it is there.
  const bool is_old = first_page + (a.stages - 1) * kWarps < first_new / kPageTokens ||
                      first_new == end;
  PageQueue<32> queue(a.form, a.batch.table + s.first_page, head, first_page,
                      (end + kPageTokens - 1) / kPageTokens, a.stages,
                      memory + self * a.stages * PageQueue<32>::stage_bytes(a.form),
                      kWarps, is_old);
  const KvLayout& layout = a.form.coded_layout;
  Warp<D> warp;
  const int g = warp.g = lane / 4, t = warp.t = lane % 4;
  const RowPlace place = place_of(a, s, head, min(first + g, last));
  const auto* q = static_cast<const __half*>(a.queries) +
                  (place.row * a.n_heads + place.head) * D + 8 * t;
  if (!a.queries) {
    // In the place of what the warps leave at the end.
    auto* queries = reinterpret_cast<__half*>(&parts[0][0][0]);
    float* x = &parts[0][0][0] + kRows * D / 2 + self * (D + D / 4);
    static_assert(kRows * D / 2 + kWarps * (D + D / 4) <= kWarps * kRows * D);
    bring_in<D, kWarps, false>(args, s, head, first, last - first + 1, first_new, end,
                               x, queries, D);
    __syncthreads();
    if (!is_old) queue.begin();
    q = queries + min(g, last - first) * D + 8 * t;
  }
#pragma unroll
  for (int depth = 0; depth < D / kTileDepth; ++depth) {
    const uint4 v = *reinterpret_cast<const uint4*>(q + depth * kTileDepth);
    warp.q[depth][0] = v.x, warp.q[depth][1] = v.y;
    warp.q[depth][2] = v.z, warp.q[depth][3] = v.w;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = __half22float2(half2_of(warp.q[depth][i]));
      sum += two.x + two.y;
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (layout.k.format.kind == KvKind::kAffine && layout.k.format.bits <= 4)
      order_by_nibbles(warp.q[depth]);
    warp.q_sums[depth] = {__shfl_sync(~0u, sum, 8 * t),
                          __shfl_sync(~0u, sum, 8 * t + 4)};
  }
  const int position[2] = {position_of(a, s, min(first + 2 * t, last)),
                           position_of(a, s, min(first + 2 * t + 1, last))};
  const KeyRange by_all = keys_of_all(a, s, first, last);
  float largest[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {0, 0};

  const std::byte* at = nullptr;
  // Both halves of every kWarps-th page.
#pragma unroll 1
  for (int step = 0;; ++step) {
    const int page = first_page + step / 2 * kWarps, token = step % 2 * kTileDepth;
    const int from = page * kPageTokens + token;
    if (token == 0 && step > 0) queue.pop();
    if (page * kPageTokens >= end) break;
    if (token == 0) at = queue.front().at;
    if (from >= end || from + kTileDepth <= begin) continue;
    // Hidden from the compiler, which would keep the places of all formats in
    // registers.
    asm volatile("" : "+r"(warp.g), "+r"(warp.t));
    with_format(layout.k.format, [&]<int bits, bool turbo>() {
      warp.template score<bits, turbo>(layout.k, at, token);
    });
    const bool all = from >= by_all.begin && from + kTileDepth <= by_all.end;
    float most[2] = {largest[0], largest[1]};
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& score = warp.scores[m][i];
        if (!all && !is_met(a, s, position[i % 2], from + 16 * m + g + 8 * (i / 2)))
          score = -HUGE_VALF;
        most[i % 2] = fmaxf(most[i % 2], score);
      }
    float before[2], base[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2)
        most[j] = fmaxf(most[j], __shfl_xor_sync(~0u, most[j], lanes));
      before[j] = largest[j] == most[j] ? 1.0f : exp2f(largest[j] - most[j]);
      largest[j] = most[j];
      base[j] = most[j] == -HUGE_VALF ? 0.0f : most[j];
      sum[j] *= before[j];
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const __half2 p = __floats2half2_rn(exp2f(warp.scores[m][2 * h] - base[0]),
                                            exp2f(warp.scores[m][2 * h + 1] - base[1]));
        const float2 seen = __half22float2(p);
        sum[0] += seen.x;
        sum[1] += seen.y;
        warp.p[2 * m + h] = bits_of(p);
      }
    warp.order_weights();
    with_format(layout.v.format, [&]<int bits, bool turbo>() {
      warp.template sum<bits, turbo>(layout.v, at, token, end - page * kPageTokens,
                                     before);
    });
  }

#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2)
      sum[j] += __shfl_xor_sync(~0u, sum[j], lanes);
  __syncthreads();
  __shared__ float largests[kWarps][kRows], sums[kWarps][kRows];
  const bool is_affine = layout.v.format.kind == KvKind::kAffine;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    if (g == 0) {
      largests[self][2 * t + j] = largest[j];
      sums[self][2 * t + j] = sum[j];
    }
#pragma unroll
    for (int i = 0; i < D / kTileLanes; ++i) {
      const int group = is_affine ? i * kTileLanes / layout.v.group_values : 0;
      const float bias =
          is_affine ? __shfl_sync(~0u, warp.by_bias[j], 4 * group + t) : 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h)
        parts[self][2 * t + j][16 * i + g + 8 * h] = warp.y[i][2 * h + j] + bias;
    }
  }
  __syncthreads();
  float* to = partial_of(a, blockIdx.z, tile, head, which);
  for (int i = threadIdx.x; i < (last - first + 1) * D; i += 32 * kWarps) {
    const int row = i / D, channel = i % D;
    float most = largests[0][row];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) most = fmaxf(most, largests[w][row]);
    float y = 0, all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share =
          largests[w][row] == most ? 1.0f : exp2f(largests[w][row] - most);
      y = fmaf(share, parts[w][row][channel], y);
      all = fmaf(share, sums[w][row], all);
    }
    to[row * (D + 2) + channel] = y;
    if (channel > 0) continue;
    to[row * (D + 2) + D] = most;
    to[row * (D + 2) + D + 1] = all;
  }
  static_assert(kRows * D >= D + 32);
  finish_if_last<kWarps, D>(a, s, blockIdx.z, tile, head, first, last, &parts[0][0][0]);
}

// Of each warp's queue: not two, for a third block hides more than a second stage.
int stages_of_coded(const PageForm& form) {
  const int bytes = kWarps * PageQueue<32>::stage_bytes(form);
  constexpr std::size_t kSums = 48 << 10;  // at most, of the warps
  return std::min(stages_beside(kSums, bytes), 1);
}

template <int D>
void start(const AttendArgs& args, const EnterArgs& enter, const Launcher& launch) {
  BringingArgs both{args, enter};
  both.attend.stages = stages_of_coded(args.form);
  void* arguments[] = {&both};
  launch_shared(reinterpret_cast<const void*>(&attend_coded_rows<D>),
                {static_cast<unsigned>(args.most_chunks),
                 static_cast<unsigned>(args.most_tiles * args.n_kv_heads),
                 static_cast<unsigned>(args.batch.n_sequences), 32 * kWarps,
                 static_cast<std::size_t>(kWarps * both.attend.stages *
                                          PageQueue<32>::stage_bytes(args.form))},
                arguments, launch);
}

}  // namespace

bool has_coded_pages(const PageForm& form) {
  return form.float_pages == 0 && stages_of_coded(form) > 0 &&
         form.coded_layout.k.format.kind != KvKind::kFloat &&
         form.coded_layout.v.format.kind != KvKind::kFloat;
}

void attend_coded(const AttendArgs& args, const EnterArgs& enter,
                  const Launcher& launch) {
  with_head_dim(args.head_dim, [&]<int D>() {
    start<D>(args, enter, launch);
    return 0;
  });
}

}  // namespace optiq::kernels::cuda
