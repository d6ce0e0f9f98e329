// Instructions that CUDA has no names for. cuda_model.h has what they do, for the CPU.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

namespace optiq::kernels::cuda {

/// To be called by all threads of a kernel before it touches what another has written,
/// or writes what another may read. Where launches may overlap (cuda_primitive.cpp, on
/// compute capability 9.0 and later) the next kernel's blocks take their places
/// meanwhile, and this one's wait here for all before it.
__device__ inline void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The shared memory that a launch asks for.
__device__ inline char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

/// A barrier of its own number for `count` threads, whole warps.
__device__ inline void wait_for_threads(int barrier, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

/// c += a b of one mma.m16n8k32, a unsigned and b signed bytes.
__device__ inline void multiply_add(int (&c)[4], const std::uint32_t (&a)[4],
                                    std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c = a b of the same.
__device__ inline void multiply(int (&c)[4], const std::uint32_t (&a)[4],
                                std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}

/// c += a b of one mma.m16n8k16, halves with float32 sums.
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4],
                                    std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c = a b of the same.
__device__ inline void multiply(float (&c)[4], const std::uint32_t (&a)[4],
                                std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

/// multiply_add of bfloat16.
__device__ inline void multiply_add_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                                         std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices of eight rows of 16 bytes out of shared memory: lane 8 m + r says
/// where row r of matrix m lies, and lane 4 r + t gets word t of row r of each.
__device__ inline void load_matrices(const void* row, std::uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

/// A matrix of 8 by 8 halves, of which lane 4 r + t has the two of row r from column 2
/// t on: afterwards those of its transpose.
__device__ inline std::uint32_t transposed(std::uint32_t v) {
  std::uint32_t to;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(v));
  return to;
}

/// (v & mask) | base in one instruction: the compiler takes two for constants.
template <std::uint32_t mask>
__device__ inline std::uint32_t masked_onto(std::uint32_t v, std::uint32_t base) {
  std::uint32_t to;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(to) : "r"(v), "n"(mask), "r"(base));
  return to;
}

/// The bits of `a` where the mask has ones, those of `b` where it has zeros.
template <std::uint32_t mask>
__device__ inline std::uint32_t chosen(std::uint32_t a, std::uint32_t b) {
  std::uint32_t to;
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(to) : "r"(a), "r"(b), "n"(mask));
  return to;
}

/// `first` ? a : b without a branch, which the compiler takes where one of them costs
/// something.
__device__ inline float selected(bool first, float a, float b) {
  float to;
  asm("{.reg .pred p; setp.ne.s32 p, %3, 0; selp.f32 %0, %1, %2, p;}"
      : "=f"(to)
      : "f"(a), "f"(b), "r"(static_cast<int>(first)));
  return to;
}

/// Starts a copy of `bytes`, a multiple of 16, from global to shared memory by
/// `threads` threads of the block; end_copies() closes what has been started, and
/// wait_for_copies<n>() waits until at most the n last closed are under way (of this
/// thread: a barrier makes them the block's).
template <int threads>
__device__ inline void start_copy(void* shared, const void* global, int bytes) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  for (int i = 16 * static_cast<int>(threadIdx.x % threads); i < bytes;
       i += 16 * threads)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i),
                 "l"(static_cast<const char*>(global) + i)
                 : "memory");
}
/// Of 16 bytes, by one thread; zeros if it is not `there`, from where nothing is read.
__device__ inline void start_copy_or_zero(void* shared, const void* global,
                                          bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(there ? 16 : 0)
               : "memory");
}
/// Of 8 bytes.
__device__ inline void start_copy_of_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
__device__ inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

}  // namespace optiq::kernels::cuda
