// A page's keys or values of one head as half-precision tiles in shared memory, where
// ldmatrix takes the fragments of mma.m16n8k16 from.
//
// Keys lie [token][channel]. Coded values, whose words hold eight tokens of a channel,
// lie [channel][token]; float ones [token][channel], and are transposed as they are
// loaded. Rows are 16 bytes longer than what they hold: eight rows at a time then
// meet all banks.
#pragma once
#include <cuda_bf16.h>

#include "optiq/kernels/cuda_device.cuh"
#include "optiq/kernels/kv_page/kv_page_cuda.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kPad = 8;                       // halves
inline constexpr int kByToken = kPageTokens + kPad;  // a row of values by channel

/// The pages of one head on their way through shared memory: a piece is copied as it is
/// while those before it are at work. A queue belongs to a block of `threads`, or,
/// where these are 32, to a warp.
template <int threads>
class PageQueue {
 public:
  __host__ __device__ static int stage_bytes(const PageForm& form) {
    const std::int64_t coded = form.coded_layout.head_bytes;
    const std::int64_t floats = form.float_pages > 0 ? form.float_layout.head_bytes : 0;
    return static_cast<int>(coded > floats ? coded : floats);
  }

  /// Every `step`-th of pages [begin, end); `memory` has room for `stages` pieces, one
  /// or two, which are on their way from now or from begin() on.
  __device__ PageQueue(const PageForm& form, std::byte* const* table, int head,
                       int begin, int end, int stages, std::byte* memory, int step = 1,
                       bool now = true)
      : form_(form),
        table_(table),
        memory_(memory),
        bytes_(stage_bytes(form)),
        stages_(stages),
        head_(head),
        next_(begin),
        end_(end),
        step_(step) {
    if (now) this->begin();
  }
  __device__ void begin() {
    if (next_ < end_) address_ = table_[next_];
    for (int i = 0; i < stages_; ++i) start();
  }

  /// The piece of the next page, there for all threads; all are done with what they
  /// read before.
  __device__ HeadInPage front() {
    if (stages_ == 2)
      wait_for_copies<1>();
    else
      wait_for_copies<0>();
    sync();
    const int page = next_ - stages_ * step_;
    const int stage = stages_ == 2 ? started_ % 2 : 0;
    return {&layout_of(page), memory_ + stage * bytes_};
  }

  /// Starts with another page in the piece's place. To be called once for each front().
  ///
  /// Requires  of a block, a barrier since its threads last read the piece
  __device__ void pop() {
    if (threads == 32) sync();
    start();
  }

 private:
  __device__ static void sync() {
    if constexpr (threads == 32)
      __syncwarp();
    else
      __syncthreads();
  }

  __device__ const KvLayout& layout_of(int page) const {
    return page < form_.float_pages ? form_.float_layout : form_.coded_layout;
  }

  __device__ void start() {
    if (next_ < end_) {
      const KvLayout& layout = layout_of(next_);
      const std::int64_t offset =
          next_ < form_.float_pages ? form_.float_offset : form_.coded_offset;
      start_copy<threads>(memory_ + (stages_ == 2 ? started_ % 2 * bytes_ : 0),
                          address_ + offset + head_ * layout.head_bytes,
                          static_cast<int>(layout.head_bytes));
      if (next_ + step_ < end_) address_ = table_[next_ + step_];
    }
    end_copies();
    next_ += step_;
    ++started_;
  }

  const PageForm& form_;
  std::byte* const* table_;
  std::byte* memory_;
  std::byte* address_;
  int bytes_, stages_, head_, next_, end_, step_;
  int started_ = 0;
};

template <int D>
inline constexpr int kKeyHalves = kPageTokens*(D + kPad);
template <int D>
inline constexpr int kValueHalves =
    D* kByToken > kKeyHalves<D> ? D* kByToken : kKeyHalves<D>;

__device__ inline uint4 four_words(const __half2 (&h)[4]) {
  return make_uint4(bits_of(h[0]), bits_of(h[1]), bits_of(h[2]), bits_of(h[3]));
}

/// Eight neighbouring values of a float page.
__device__ inline uint4 eight_halves(const std::byte* at, std::int64_t i,
                                     FloatType type) {
  if (type == FloatType::kF16) return *reinterpret_cast<const uint4*>(at + 2 * i);
  __half2 h[4];
  if (type == FloatType::kBF16) {
    const uint4 v = *reinterpret_cast<const uint4*>(at + 2 * i);
    const std::uint32_t words[] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      h[j] = __floats2half2_rn(__uint_as_float(words[j] << 16),
                               __uint_as_float(words[j] & 0xffff0000u));
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto* two = reinterpret_cast<const float2*>(at) + (i / 2 + j);
      h[j] = __floats2half2_rn(two->x, two->y);
    }
  }
  return four_words(h);
}

/// What of eight values by token is before `end`; the rest is zero, for what lies
/// behind the last token may be NaN.
__device__ inline uint4 before_end(uint4 v, int token, int end) {
  if (token + 8 <= end) return v;
  std::uint32_t words[] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (token + 2 * j >= end)
      words[j] = 0;
    else if (token + 2 * j + 1 >= end)
      words[j] &= 0xffff;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

/// The thread, hidden from the compiler: it would keep the places of all formats in
/// registers from page to page.
__device__ inline int hidden_thread() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
}

template <int D, int threads, int bits, bool turbo>
__device__ void decode_keys(const KvSide& side, const std::byte* head, __half* to) {
  constexpr int tiles = (D + kTileDepth - 1) / kTileDepth;
  const auto* words = reinterpret_cast<const std::uint32_t*>(head + side.codes);
  // A group is a power of two, or all that there is.
  const int group_shift = side.groups == 1 ? 30 : __ffs(side.group_values) - 1;
#pragma unroll 4
  for (int i = hidden_thread(); i < kPageTokens * tiles * 4; i += threads) {
    const int lane = i % kTileLanes, pair = i / kTileLanes % 4, tile = i / 64;
    const int token = tile / tiles * kTileLanes + lane;
    const int channel = tile % tiles * kTileDepth + 8 * pair;
    __half2 h[4];
    whole_halves<bits, turbo>(load_codes<bits>(words + tile * 16 * bits, lane, pair),
                              h);
    const int at = (channel >> group_shift) * kPageTokens + token;
    const __half2 scale =
        __half2half2(reinterpret_cast<const __half*>(head + side.scales)[at]);
    if constexpr (turbo) {
#pragma unroll
      for (int j = 0; j < 4; ++j) h[j] = __hmul2(h[j], scale);
    } else {
      const __half2 bias =
          __half2half2(reinterpret_cast<const __half*>(head + side.biases)[at]);
#pragma unroll
      for (int j = 0; j < 4; ++j) h[j] = __hfma2(h[j], scale, bias);
    }
    *reinterpret_cast<uint4*>(to + token * (D + kPad) + channel) = four_words(h);
  }
}

template <int D, int threads, int bits, bool turbo>
__device__ void decode_values(const KvSide& side, const std::byte* head, int end,
                              __half* to) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(head + side.codes);
  // A group is a power of two, or all that there is.
  const int group_shift = side.groups == 1 ? 30 : __ffs(side.group_values) - 1;
#pragma unroll 4
  for (int i = hidden_thread(); i < D * kPageTokens / 8; i += threads) {
    const int lane = i % kTileLanes, pair = i / kTileLanes % 4, tile = i / 64;
    const int channel = tile / 2 * kTileLanes + lane;
    const int token = tile % 2 * kTileDepth + 8 * pair;
    __half2 h[4];
    whole_halves<bits, turbo>(load_codes<bits>(words + tile * 16 * bits, lane, pair),
                              h);
    const int at = (channel >> group_shift) * kPageTokens + token;
    const uint4 s = *reinterpret_cast<const uint4*>(head + side.scales + 2 * at);
    const std::uint32_t scales[] = {s.x, s.y, s.z, s.w};
    if constexpr (turbo) {
#pragma unroll
      for (int j = 0; j < 4; ++j) h[j] = __hmul2(h[j], half2_of(scales[j]));
    } else {
      const uint4 b = *reinterpret_cast<const uint4*>(head + side.biases + 2 * at);
      const std::uint32_t biases[] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        h[j] = __hfma2(h[j], half2_of(scales[j]), half2_of(biases[j]));
    }
    *reinterpret_cast<uint4*>(to + channel * kByToken + token) =
        before_end(four_words(h), token, end);
  }
}

template <int D, int threads>
__device__ void copy_rows(const KvSide& side, const std::byte* head, int end,
                          __half* to) {
#pragma unroll 4
  for (int i = hidden_thread(); i < kPageTokens * D / 8; i += threads) {
    const int token = i / (D / 8), channel = i % (D / 8) * 8;
    const uint4 v = token < end ? eight_halves(head + side.codes, token * D + channel,
                                               side.format.type)
                                : make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4*>(to + token * (D + kPad) + channel) = v;
  }
}

/// Calls f<bits, turbo>() for a coded format.
template <class Function>
__device__ void with_format(const KvFormat& format, Function&& f) {
  if (format.kind == KvKind::kTurbo) {
    if (format.bits == 2)
      f.template operator()<2, true>();
    else if (format.bits == 3)
      f.template operator()<3, true>();
    else
      f.template operator()<4, true>();
    return;
  }
  switch (format.bits) {
    case 2:
      return f.template operator()<2, false>();
    case 3:
      return f.template operator()<3, false>();
    case 4:
      return f.template operator()<4, false>();
    case 5:
      return f.template operator()<5, false>();
    case 6:
      return f.template operator()<6, false>();
    default:
      return f.template operator()<8, false>();
  }
}

/// The first `end` tokens of a page; returns true where values lie by channel.
template <int D, int threads, bool keys>
__device__ bool load_page(const KvSide& side, const std::byte* head, int end,
                          __half* to) {
  const auto decode = [&]<int bits, bool turbo>() {
    if constexpr (keys)
      decode_keys<D, threads, bits, turbo>(side, head, to);
    else
      decode_values<D, threads, bits, turbo>(side, head, end, to);
  };
  if (side.format.kind == KvKind::kFloat) {
    copy_rows<D, threads>(side, head, end, to);
    return false;
  }
  with_format(side.format, decode);
  return true;
}

/// load_matrices (cuda_instructions.cuh), each transposed.
__device__ inline void load_transposed(const __half* row, std::uint32_t (&to)[4]) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
}

/// Rows `row` to `row` + 15, columns `column` to `column` + 15 as a left operand.
__device__ inline void load_left(const __half* tile, int stride, int row, int column,
                                 int lane, std::uint32_t (&to)[4]) {
  load_matrices(tile + (row + lane % 16) * stride + column + lane / 16 * 8, to);
}

/// Eight columns from `n` on of a right operand whose columns are rows of the tile:
/// depth `k` to `k` + 31, two fragments.
__device__ inline void load_right_deep(const __half* tile, int stride, int n, int k,
                                       int lane, std::uint32_t (&to)[4]) {
  load_matrices(tile + (n + lane % 8) * stride + k + lane / 8 * 8, to);
}

/// Sixteen columns from channel `n` on of values, tokens `k` to `k` + 15: two
/// fragments.
template <int D>
__device__ inline void load_values(const __half* tile, bool by_channel, int n, int k,
                                   int lane, std::uint32_t (&to)[4]) {
  if (by_channel)
    load_matrices(
        tile + (n + lane % 8 + lane / 16 * 8) * kByToken + k + lane / 8 % 2 * 8, to);
  else
    load_transposed(tile + (k + lane % 16) * (D + kPad) + n + lane / 16 * 8, to);
}

}  // namespace optiq::kernels::cuda
