#include "optiq/kernels/embedding/embedding_cuda.h"

#include <cuda_fp16.h>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Args {
  MatrixView w;
  std::int64_t row_bytes;
  int groups;  // of a row
  const std::int32_t* ids;
  float* y;
};

// Small floats, by their bits in the places of a half's.
__device__ float e2m1(std::uint32_t code) {
  const std::uint32_t bits = (code & 8) << 12 | (code & 7) << 9;
  return 16384.0f * __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
__device__ float e4m3(std::uint32_t code) {
  const std::uint32_t bits = (code & 0x80) << 8 | (code & 0x7f) << 7;
  return 256.0f * __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
__device__ float e8m0(std::uint32_t code) {
  return code == 0 ? 0x1p-127f : __uint_as_float(code << 23);
}

__device__ float weight_at(const Args& a, std::int64_t row, int k) {
  const MatrixView& w = a.w;
  if (!w.scales) return float_at(w.weight, row * w.K + k, w.type);
  const auto* words = reinterpret_cast<const std::uint32_t*>(
      static_cast<const std::uint8_t*>(w.weight) + row * a.row_bytes);
  const int bit = k * w.spec.bits, word = bit / 32, shift = bit % 32;
  std::uint32_t code = words[word] >> shift;
  if (shift + w.spec.bits > 32) code |= words[word + 1] << (32 - shift);
  code &= (1u << w.spec.bits) - 1;
  const std::int64_t group = row * a.groups + k / w.spec.group_size;
  if (w.spec.mode == QuantMode::kAffine)
    return fmaf(float_at(w.scales, group, w.type), static_cast<float>(code),
                float_at(w.biases, group, w.type));
  const std::uint32_t scale = static_cast<const std::uint8_t*>(w.scales)[group];
  const float value = w.spec.bits == 4 ? e2m1(code) : e4m3(code);
  return value * (w.spec.mode == QuantMode::kNvfp4 ? e4m3(scale) : e8m0(scale));
}

// Grid: rows, columns by blocks.
__global__ void rows(const __grid_constant__ Args a) {
  wait_for_inputs();
  const int k = blockIdx.y * blockDim.x + threadIdx.x;
  if (k >= a.w.K) return;
  const std::int64_t row = a.ids ? a.ids[blockIdx.x] : blockIdx.x;
  a.y[static_cast<std::int64_t>(blockIdx.x) * a.w.K + k] = weight_at(a, row, k);
}

}  // namespace

void dequantize_rows(const MatrixView& w, const std::int32_t* ids, std::int64_t n,
                     float* y, const Launcher& launch) {
  if (n == 0) return;
  Args args{w, w.row_bytes(), w.quantized() ? w.groups() : 0, ids, y};
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&rows),
         {static_cast<unsigned>(n), static_cast<unsigned>((w.K + 255) / 256), 1, 256},
         arguments);
}

}  // namespace optiq::kernels::cuda
