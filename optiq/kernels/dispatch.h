// Choosing among the builds of one kernel.
#pragma once
#include "optiq/base/simd_target.h"

/// Declares `signature` in the namespace of every SIMD target of this architecture, as
/// its *_simd.cpp defines it: OPTIQ_DECLARE_SIMD(void scale(float* x, int n)).
///
/// amx adds to avx512: amx::name is avx512::name unless it is declared in amx beside
/// this, and defined in *_amx.cpp.
#if defined(__x86_64__)
#define OPTIQ_DECLARE_SIMD(signature) \
  namespace avx2 {                    \
  signature;                          \
  }                                   \
  namespace avxvnni {                 \
  signature;                          \
  }                                   \
  namespace avx512 {                  \
  signature;                          \
  }                                   \
  namespace amx {                     \
  using namespace avx512;             \
  }
#elif defined(__aarch64__)
#define OPTIQ_DECLARE_SIMD(signature) \
  namespace neon {                    \
  signature;                          \
  }
#else
#define OPTIQ_DECLARE_SIMD(signature)
#endif

/// The function `name` of the target in use; `ref::name` where there is no other.
#if defined(__x86_64__)
#define OPTIQ_CHOOSE(name)                                                   \
  (::optiq::simd_target() == ::optiq::SimdTarget::kAmx       ? amx::name     \
   : ::optiq::simd_target() == ::optiq::SimdTarget::kAvx512  ? avx512::name  \
   : ::optiq::simd_target() == ::optiq::SimdTarget::kAvxVnni ? avxvnni::name \
   : ::optiq::simd_target() == ::optiq::SimdTarget::kAvx2    ? avx2::name    \
                                                             : ref::name)
#elif defined(__aarch64__)
#define OPTIQ_CHOOSE(name) \
  (::optiq::simd_target() == ::optiq::SimdTarget::kNeon ? neon::name : ref::name)
#else
#define OPTIQ_CHOOSE(name) (ref::name)
#endif
