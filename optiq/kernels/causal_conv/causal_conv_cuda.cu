// A thread a channel: it goes through a chunk of a segment's tokens with the rows
// before the next one in registers.
#include "optiq/kernels/causal_conv/causal_conv_cuda.h"

#include <algorithm>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 64;           // tokens of a block: no fewer than kMostConvKernel
constexpr int kSegmentsAtOnce = 64;  // as kernels' arguments have room for

struct ConvCall {
  const float* x;
  const float* weight;
  float* y;
  std::int64_t x_stride;
  int channels, kernel, chunks;  // chunks of the longest segment
  CausalConvSegment segments[kSegmentsAtOnce];
};

__global__ void conv_rows(const __grid_constant__ ConvCall a) {
  const int channel = blockIdx.x * kThreads + threadIdx.x;
  const int chunk = blockIdx.y % a.chunks, before = a.kernel - 1;
  const CausalConvSegment& segment = a.segments[blockIdx.y / a.chunks];
  if (channel >= a.channels) return;
  // By their distance to the newest row: weight[d] meets the row d before it.
  float weight[kMostConvKernel], past[kMostConvKernel];
#pragma unroll
  for (int d = 0; d < kMostConvKernel; ++d)
    weight[d] = d < a.kernel ? a.weight[channel * a.kernel + before - d] : 0.0f;
  wait_for_inputs();
  const int begin = chunk * kChunk, end = min(begin + kChunk, segment.tokens);
  const float* x = a.x + segment.row * a.x_stride + channel;
  const auto at = [&](int t) {
    return t >= 0 ? x[t * a.x_stride]
                  : segment.tail_in[(t + before) * a.channels + channel];
  };
  // Of a segment without tokens the first chunk has its tail to copy.
  if (chunk > 0 && begin >= end) return;
#pragma unroll
  for (int d = 1; d < kMostConvKernel; ++d)
    past[d] = d < a.kernel ? at(begin - d) : 0.0f;
  if (chunk == 0) {
    // The whole tail is in registers now: it may be written where it was.
    float last[kMostConvKernel];
#pragma unroll
    for (int d = 1; d < kMostConvKernel; ++d) {
      const int t = segment.tokens - d;
      last[d] = 0;
      if (d < a.kernel && t >= 0) last[d] = x[t * a.x_stride];
#pragma unroll
      for (int e = 1; e < kMostConvKernel; ++e)
        if (t == -e) last[d] = past[e];
    }
#pragma unroll
    for (int d = 1; d < kMostConvKernel; ++d)
      if (d < a.kernel) segment.tail_out[(before - d) * a.channels + channel] = last[d];
  }
  float* y = a.y + segment.row * a.channels + channel;
  for (int t = begin; t < end; ++t) {
    past[0] = x[t * a.x_stride];
    float sum = 0;
#pragma unroll
    for (int d = kMostConvKernel - 1; d >= 0; --d) sum = fmaf(weight[d], past[d], sum);
    y[static_cast<std::int64_t>(t) * a.channels] = sum / (1 + expf(-sum));
#pragma unroll
    for (int d = kMostConvKernel - 1; d > 0; --d) past[d] = past[d - 1];
  }
}

}  // namespace

void causal_conv_silu(const CausalConvArgs& args, const Launcher& launch) {
  for (int first = 0; first < args.n_segments; first += kSegmentsAtOnce) {
    const int n = std::min(args.n_segments - first, kSegmentsAtOnce);
    ConvCall call{args.x,        args.weight, args.y, args.x_stride,
                  args.channels, args.kernel, 1,      {}};
    for (int i = 0; i < n; ++i) {
      call.segments[i] = args.segments[first + i];
      call.chunks =
          std::max(call.chunks, (call.segments[i].tokens + kChunk - 1) / kChunk);
    }
    void* arguments[] = {&call};
    launch(reinterpret_cast<const void*>(&conv_rows),
           {static_cast<unsigned>((args.channels + kThreads - 1) / kThreads),
            static_cast<unsigned>(n * call.chunks), 1, kThreads},
           arguments);
  }
}

}  // namespace optiq::kernels::cuda
