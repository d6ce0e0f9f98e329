// CUDA's language on the CPU, as far as some kernels use it: for tests where there is
// no device. What a kernel computes is here; how fast, and what a memory model allows,
// not.
//
// The threads of a block are contexts that run in turn, each until it waits for others:
// at a barrier, a shuffle, a product of matrices. Blocks run one after another.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (optiq::cuda_model::thread_index())
#define blockIdx (optiq::cuda_model::block().index)
#define gridDim (optiq::cuda_model::block().grid)
#define blockDim (optiq::cuda_model::block().shape)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

struct __half {
  _Float16 value;
};
struct __half2 {
  __half x, y;
};

namespace optiq::cuda_model {

constexpr int kWarp = 32, kMostThreads = 1024;

/// Lanes of a warp hand each other words here.
struct Lane {
  std::uint32_t shuffled, left[4], right[2];
  const void* row;  // of a matrix
};

struct Barrier {
  int waiting = 0;
  unsigned turn = 0;
};

struct Block {
  dim3 index{}, grid{}, shape{};
  int thread = 0;
  bool moved = false;  // a barrier was passed or a thread ended
  std::map<std::pair<int, unsigned>, Barrier> barriers;
  std::vector<ucontext_t> contexts;
  std::vector<char> ended;
  ucontext_t scheduler{};
  std::function<void()> kernel;
  Lane lanes[kMostThreads];
  alignas(128) char shared[228 << 10];
};
inline Block& block() {
  static Block the_block;
  return the_block;
}
inline dim3 thread_index() { return {static_cast<unsigned>(block().thread), 0, 0}; }

/// Until `count` threads have come to the barrier (kind, which).
inline void wait(int kind, unsigned which, int count) {
  Block& b = block();
  Barrier& barrier = b.barriers[{kind, which}];
  const unsigned turn = barrier.turn;
  if (++barrier.waiting == count) {
    barrier.waiting = 0;
    ++barrier.turn;
    b.moved = true;
    return;
  }
  const int me = b.thread;
  while (barrier.turn == turn) {
    swapcontext(&b.contexts[me], &b.scheduler);
    b.thread = me;
  }
}
inline void wait_for_lanes(unsigned mask) {
  wait(2 + block().thread / kWarp, mask, std::popcount(mask));
}
inline Lane* warp() { return block().lanes + block().thread / kWarp * kWarp; }

template <class T>
T shuffled(unsigned mask, T value, int change) {
  const int lane = block().thread % kWarp;
  warp()[lane].shuffled = std::bit_cast<std::uint32_t>(value);
  wait_for_lanes(mask);
  const T theirs = std::bit_cast<T>(warp()[lane ^ change].shuffled);
  wait_for_lanes(mask);
  return theirs;
}

/// One mma of 16 rows by 8 columns: c[i] += sum over k of left and right, whose values
/// left(word, at) and right(word, at) take out of registers of `in_word` values.
template <class Sum, class Left, class Right>
void multiply_add(Sum (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                  std::uint32_t b1, int in_word, Left&& left, Right&& right) {
  const int lane = block().thread % kWarp, depth = 4 * in_word;
  Lane* const lanes = warp();
  std::copy_n(a, 4, lanes[lane].left);
  lanes[lane].right[0] = b0, lanes[lane].right[1] = b1;
  wait_for_lanes(~0u);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 2 * depth; ++k) {
      const int of = k % depth / in_word, half = k / depth;
      c[i] += left(lanes[row % 8 * 4 + of].left[2 * half + row / 8], k % in_word) *
              right(lanes[column * 4 + of].right[half], k % in_word);
    }
  }
  wait_for_lanes(~0u);
}

/// Runs a kernel of one-dimensional blocks.
///
/// Throws    std::logic_error if its threads wait for each other for ever
inline void run(dim3 grid, int threads, std::function<void()> kernel) {
  constexpr std::size_t kStack = 256 << 10;
  static std::vector<std::vector<char>> stacks;
  while (stacks.size() < static_cast<std::size_t>(threads)) stacks.emplace_back(kStack);
  Block& b = block();
  b.grid = grid;
  b.shape = {static_cast<unsigned>(threads), 1, 1};
  b.kernel = std::move(kernel);
  for (unsigned i = 0; i < grid.x * grid.y; ++i) {
    b.index = {i % grid.x, i / grid.x, 0};
    std::memset(b.shared, 0xff, sizeof b.shared);  // no numbers
    b.barriers.clear();
    b.contexts.assign(threads, {});
    b.ended.assign(threads, 0);
    for (int t = 0; t < threads; ++t) {
      ucontext_t& context = b.contexts[t];
      getcontext(&context);
      context.uc_stack.ss_sp = stacks[t].data();
      context.uc_stack.ss_size = kStack;
      context.uc_link = &b.scheduler;
      makecontext(
          &context,
          +[] {
            Block& mine = block();
            mine.kernel();
            mine.ended[mine.thread] = 1;
            mine.moved = true;
          },
          0);
    }
    for (int left = threads; left > 0;) {
      b.moved = false;
      left = 0;
      for (int t = 0; t < threads; ++t) {
        if (b.ended[t]) continue;
        b.thread = t;
        swapcontext(&b.scheduler, &b.contexts[t]);
        left += !b.ended[t];
      }
      if (left > 0 && !b.moved)
        throw std::logic_error("threads of a block wait for each other for ever");
    }
  }
}

/// p, which CUDA reads only where it is aligned.
template <class T>
const T& aligned(const T* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % alignof(T) != 0)
    throw std::logic_error("a misaligned address");
  return *p;
}

}  // namespace optiq::cuda_model

inline void __syncthreads() {
  optiq::cuda_model::wait(0, 0, static_cast<int>(optiq::cuda_model::block().shape.x));
}
inline void __syncwarp() { optiq::cuda_model::wait_for_lanes(~0u); }
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int change) {
  return optiq::cuda_model::shuffled(mask, value, change);
}
inline unsigned __ballot_sync(unsigned mask, bool is) {
  unsigned all = is ? 1u << optiq::cuda_model::block().thread % 32 : 0;
  for (int step = 16; step > 0; step /= 2)
    all |= optiq::cuda_model::shuffled(mask, all, step);
  return all;
}
inline int atomicAdd(int* to, int v) { return std::exchange(*to, *to + v); }
inline void __threadfence() {}
inline int __popc(unsigned v) { return std::popcount(v); }
template <class T>
T __ldcs(const T* p) {
  return optiq::cuda_model::aligned(p);
}
template <class T>
T __ldcg(const T* p) {
  return optiq::cuda_model::aligned(p);
}
template <class T>
T __ldg(const T* p) {
  return optiq::cuda_model::aligned(p);
}

using std::max;
using std::min;
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(high) << 32 | low) >>
                               (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned choice) {
  const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned to = 0;
  for (int i = 0; i < 4; ++i)
    to |= static_cast<unsigned>(both >> (8 * (choice >> (4 * i) & 7)) & 0xff)
          << (8 * i);
  return to;
}

inline __half __ushort_as_half(unsigned short v) { return std::bit_cast<__half>(v); }
inline float __half2float(__half v) { return static_cast<float>(v.value); }
inline __half __float2half_rn(float v) { return {static_cast<_Float16>(v)}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half2 __float2half2_rn(float v) { return __floats2half2_rn(v, v); }
inline float2 __half22float2(__half2 v) {
  return {__half2float(v.x), __half2float(v.y)};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) * __half2float(b.x),
                           __half2float(a.y) * __half2float(b.y));
}

// What starting a kernel asks of the runtime: three processors, so that blocks have
// more than one tile.
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kOfAda = 99 << 10;  // the least that we build for
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : kOfAda;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

// cuda_instructions.cuh.
namespace optiq::kernels::cuda {

inline void wait_for_inputs() {}
inline char* dynamic_shared() { return cuda_model::block().shared; }
inline void wait_for_threads(int barrier, int count) {
  cuda_model::wait(1, static_cast<unsigned>(barrier), count);
}
inline void multiply_add(int (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                         std::uint32_t b1) {
  cuda_model::multiply_add(
      c, a, b0, b1, 4,
      [](std::uint32_t word, int i) {
        return static_cast<int>(word >> (8 * i) & 0xff);
      },
      [](std::uint32_t word, int i) {
        return static_cast<int>(static_cast<std::int8_t>(word >> (8 * i)));
      });
}
inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                         std::uint32_t b1) {
  const auto half = [](std::uint32_t word, int i) {
    return __half2float(
        __ushort_as_half(static_cast<unsigned short>(word >> (16 * i))));
  };
  cuda_model::multiply_add(c, a, b0, b1, 2, half, half);
}
template <class Sum>
void multiply(Sum (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
              std::uint32_t b1) {
  for (Sum& v : c) v = 0;
  multiply_add(c, a, b0, b1);
}
inline void multiply_add_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                              std::uint32_t b0, std::uint32_t b1) {
  const auto value = [](std::uint32_t word, int i) {
    return __uint_as_float(word >> (16 * i) << 16);
  };
  cuda_model::multiply_add(c, a, b0, b1, 2, value, value);
}
inline void load_matrices(const void* row, std::uint32_t (&to)[4]) {
  const int lane = cuda_model::block().thread % cuda_model::kWarp;
  cuda_model::Lane* const lanes = cuda_model::warp();
  lanes[lane].row = row;
  cuda_model::wait_for_lanes(~0u);
  for (int m = 0; m < 4; ++m)
    to[m] = static_cast<const std::uint32_t*>(lanes[8 * m + lane / 4].row)[lane % 4];
  cuda_model::wait_for_lanes(~0u);
}
template <std::uint32_t mask>
std::uint32_t masked_onto(std::uint32_t v, std::uint32_t base) {
  return (v & mask) | base;
}
template <std::uint32_t mask>
std::uint32_t chosen(std::uint32_t a, std::uint32_t b) {
  return (a & mask) | (b & ~mask);
}
inline float selected(bool first, float a, float b) { return first ? a : b; }
template <int threads>
void start_copy(void* shared, const void* global, int bytes) {
  for (int i = static_cast<int>(threadIdx.x % threads); i < bytes / 16; i += threads)
    static_cast<uint4*>(shared)[i] =
        cuda_model::aligned(static_cast<const uint4*>(global) + i);
}
inline void start_copy_or_zero(void* shared, const void* global, bool there) {
  *static_cast<uint4*>(shared) =
      there ? cuda_model::aligned(static_cast<const uint4*>(global)) : uint4{};
}
inline void start_copy_of_8(void* shared, const void* global) {
  *static_cast<uint2*>(shared) = cuda_model::aligned(static_cast<const uint2*>(global));
}
inline void end_copies() {}
template <int n>
void wait_for_copies() {}

}  // namespace optiq::kernels::cuda
