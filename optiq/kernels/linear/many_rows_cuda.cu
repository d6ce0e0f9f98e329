#include "optiq/kernels/linear/many_rows_cuda.h"

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline float low_of(std::uint32_t two) { return __uint_as_float(two << 16); }
__device__ inline float high_of(std::uint32_t two) {
  return __uint_as_float(two & 0xffff0000u);
}

__global__ void narrow_row(const __grid_constant__ NarrowRowsArgs a) {
  auto* sums = reinterpret_cast<float*>(dynamic_shared());
  wait_for_inputs();
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.x) * a.K;
  const auto* x = reinterpret_cast<const float2*>(a.x + from);
  const auto* weight = reinterpret_cast<const float2*>(a.norm_weight);
  auto* to = reinterpret_cast<std::uint32_t*>(a.to + from);
  float factor = 1;
  if (weight) {
    float square = 0;
    for (int i = threadIdx.x; i < a.K / 2; i += kThreads)
      square = fmaf(x[i].x, x[i].x, fmaf(x[i].y, x[i].y, square));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      square += __shfl_xor_sync(~0u, square, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = square;
    __syncthreads();
    float sum = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += sums[warp];
    factor = 1 / sqrtf(sum / static_cast<float>(a.K) + a.norm_eps);
  }
  for (int i = threadIdx.x; i < a.K / 2; i += kThreads) {
    float2 v = x[i];
    if (weight) {
      const float2 w = weight[i];
      v.x = w.x * (v.x * factor), v.y = w.y * (v.y * factor);
    }
    to[i] = narrow(v.x, v.y);
  }
}

constexpr int kCodes = 8;  // of a thread in a row: as many bytes as they have bits
constexpr int kRowsOfThread = 8;  // all of whose codes are on their way at once

struct DequantizeArgs {
  const std::uint8_t* w;
  const void* scales;
  const void* biases;
  std::uint16_t* to;
  int N, K, group;
  FloatType type;
};

template <int bits>
__global__ void dequantize_rows(const __grid_constant__ DequantizeArgs a) {
  const int k = (blockIdx.y * kThreads + threadIdx.x) * kCodes;
  const int row = blockIdx.x * kRowsOfThread;
  wait_for_inputs();
  if (k >= a.K) return;
  const std::int64_t row_words = static_cast<std::int64_t>(a.K) * bits / 32;
  const int byte = k / kCodes * bits, shift = byte % 4 * 8;
  std::uint32_t low[kRowsOfThread], high[kRowsOfThread];
  float scale[kRowsOfThread], bias[kRowsOfThread];
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    const int n = min(row + i, a.N - 1);
    const auto* words =
        reinterpret_cast<const std::uint32_t*>(a.w) + n * row_words + byte / 4;
    low[i] = words[0];
    high[i] = shift + 8 * bits > 32 ? words[1] : 0;
    const std::int64_t at =
        static_cast<std::int64_t>(n) * (a.K / a.group) + k / a.group;
    scale[i] = float_at(a.scales, at, a.type);
    bias[i] = float_at(a.biases, at, a.type);
  }
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    if (row + i >= a.N) return;
    const std::uint64_t codes =
        (static_cast<std::uint64_t>(high[i]) << 32 | low[i]) >> shift;
    const auto value = [&](int c) {
      const auto code = static_cast<unsigned>(codes >> (c * bits)) & ((1u << bits) - 1);
      return fmaf(scale[i], static_cast<float>(code), bias[i]);
    };
    *reinterpret_cast<uint4*>(a.to + static_cast<std::int64_t>(row + i) * a.K + k) =
        make_uint4(narrow(value(0), value(1)), narrow(value(2), value(3)),
                   narrow(value(4), value(5)), narrow(value(6), value(7)));
  }
}

struct WidenArgs {
  const std::uint16_t* y;
  int rows, width, n_parts;
  WidePart parts[kMostParts];
};

/// `pair`: columns by twos, where no part ends between them.
template <bool pair>
__global__ void widen_row(const __grid_constant__ WidenArgs a) {
  constexpr int kWide = pair ? 2 : 1;
  wait_for_inputs();
  const int first = (blockIdx.y * kThreads + threadIdx.x) * kWide;
  if (first >= a.width) return;
  int column = first, which = 0;
  while (column >= a.parts[which].N) column -= a.parts[which++].N;
  const WidePart& part = a.parts[which];
  const std::int64_t row = blockIdx.x, to = row * part.N + column;
  float v[kWide];
  if constexpr (pair) {
    const std::uint32_t two =
        *reinterpret_cast<const std::uint32_t*>(a.y + row * a.width + first);
    v[0] = low_of(two), v[1] = high_of(two);
  } else {
    v[0] = low_of(a.y[row * a.width + first]);
  }
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    if (part.bias) v[i] += float_at(part.bias, column + i, part.bias_type);
    if (part.residual) v[i] += part.residual[to + i];
  }
  if constexpr (pair)
    *reinterpret_cast<float2*>(part.to + to) = make_float2(v[0], v[1]);
  else
    part.to[to] = v[0];
}

struct GluHalvesArgs {
  const std::uint16_t* y;
  std::uint16_t* to;
  int N;
  GluGate f;
};

__global__ void glu_row(const __grid_constant__ GluHalvesArgs a) {
  wait_for_inputs();
  const int n = (blockIdx.y * kThreads + threadIdx.x) * 2;
  if (n >= a.N) return;
  const std::int64_t row = blockIdx.x;
  const std::uint16_t* y = a.y + row * 2 * a.N + n;
  const auto gate = *reinterpret_cast<const std::uint32_t*>(y);
  const auto up = *reinterpret_cast<const std::uint32_t*>(y + a.N);
  *reinterpret_cast<std::uint32_t*>(a.to + row * a.N + n) =
      narrow(gate_value(a.f, low_of(gate)) * low_of(up),
             gate_value(a.f, high_of(gate)) * high_of(up));
}

unsigned blocks_of(std::int64_t n, int of_block) {
  return static_cast<unsigned>((n + of_block - 1) / of_block);
}

template <int bits>
void start_dequantize(DequantizeArgs args, const Launcher& launch) {
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&dequantize_rows<bits>),
         {blocks_of(args.N, kRowsOfThread), blocks_of(args.K, kCodes * kThreads), 1,
          kThreads},
         arguments);
}

}  // namespace

void narrow_rows(const NarrowRowsArgs& args, const Launcher& launch) {
  if (args.rows == 0) return;
  NarrowRowsArgs copy = args;
  void* arguments[] = {&copy};
  launch(
      reinterpret_cast<const void*>(&narrow_row),
      {static_cast<unsigned>(args.rows), 1, 1, kThreads, kThreads / 32 * sizeof(float)},
      arguments);
}

void dequantize(const MatrixView& w, std::uint16_t* to, const Launcher& launch) {
  const DequantizeArgs args{static_cast<const std::uint8_t*>(w.weight),
                            w.scales,
                            w.biases,
                            to,
                            w.N,
                            w.K,
                            w.spec.group_size,
                            w.type};
  switch (w.spec.bits) {
    case 2:
      return start_dequantize<2>(args, launch);
    case 3:
      return start_dequantize<3>(args, launch);
    case 4:
      return start_dequantize<4>(args, launch);
    case 5:
      return start_dequantize<5>(args, launch);
    case 6:
      return start_dequantize<6>(args, launch);
    default:
      return start_dequantize<8>(args, launch);
  }
}

void widen_rows(const std::uint16_t* y, int rows, std::span<const WidePart> parts,
                const Launcher& launch) {
  WidenArgs args{y, rows, 0, static_cast<int>(parts.size()), {}};
  bool pair = true;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    args.parts[i] = parts[i];
    args.width += parts[i].N;
    pair = pair && parts[i].N % 2 == 0;
  }
  if (rows == 0 || args.width == 0) return;
  void* arguments[] = {&args};
  launch(pair ? reinterpret_cast<const void*>(&widen_row<true>)
              : reinterpret_cast<const void*>(&widen_row<false>),
         {static_cast<unsigned>(rows), blocks_of(args.width, kThreads * (pair ? 2 : 1)),
          1, kThreads},
         arguments);
}

void glu_halves(GluGate f, const std::uint16_t* y, int rows, int N, std::uint16_t* to,
                const Launcher& launch) {
  if (rows == 0) return;
  GluHalvesArgs args{y, to, N, f};
  void* arguments[] = {&args};
  launch(reinterpret_cast<const void*>(&glu_row),
         {static_cast<unsigned>(rows), blocks_of(N, 2 * kThreads), 1, kThreads},
         arguments);
}

}  // namespace optiq::kernels::cuda
