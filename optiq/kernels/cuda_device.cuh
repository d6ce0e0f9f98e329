// What kernels on a CUDA device share.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#include "optiq/kernels/cuda_instructions.cuh"
#else
#include "optiq/kernels/cuda_model.h"
#endif
#include "optiq/kernels/float_type.h"
#include "optiq/kernels/glu/glu.h"

namespace optiq::kernels::cuda {

/// float_type.h's load_float.
__device__ inline float float_at(const void* data, std::int64_t i, FloatType type) {
  if (type == FloatType::kF32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  if (type == FloatType::kBF16)
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
  return __half2float(__ushort_as_half(bits));
}

/// The sum over the lanes of a warp, for each of them.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

/// A bfloat16, or two of them in a word: to the nearest, of two the even one.
__device__ inline std::uint32_t narrow(float v) {
  const std::uint32_t bits = __float_as_uint(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bits >> 16 | 0x40u;
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}
__device__ inline std::uint32_t narrow(float low, float high) {
  return narrow(high) << 16 | narrow(low);
}

/// f of a gate.
__device__ inline float gate_value(GluGate f, float g) {
  // GELU's tanh form as a sigmoid: (1 + tanh(z)) / 2 = sigmoid(2 z).
  constexpr float kTwice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
  const float z = f == GluGate::kSilu ? g : kTwice * fmaf(0.044715f * g * g, g, g);
  return g / (1 + expf(-z));
}

__device__ inline std::uint32_t bits_of(__half2 h) {
  return *reinterpret_cast<std::uint32_t*>(&h);
}
__device__ inline __half2 half2_of(std::uint32_t bits) {
  return *reinterpret_cast<__half2*>(&bits);
}

/// What the device says of itself; `otherwise` if it does not.
inline int device_attribute(cudaDeviceAttr attribute, int otherwise) {
  int device = 0, value = otherwise;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess)
    return otherwise;
  return value;
}

/// Multiprocessors of the device.
inline int processors() {
  static const int n = device_attribute(cudaDevAttrMultiProcessorCount, 1);
  return n;
}

/// Bytes of shared memory that a block may have.
inline int shared_memory() {
  static const int bytes =
      device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 << 10);
  return bytes;
}

}  // namespace optiq::kernels::cuda
