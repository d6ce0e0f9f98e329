// A warp has eight columns of a head's state in its registers, a lane a quarter of one:
// the sums over a column's rows take two shuffles, and no warp waits for another but
// for the tokens' q, k and v, which a block brings into shared memory a few tokens
// ahead.
#include "optiq/kernels/gated_delta/gated_delta_cuda.h"

#include <algorithm>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kColumnsOfWarp = 8, kColumns = kColumnsOfWarp * kWarps;
constexpr int kTokens = 8;           // brought at once
constexpr int kSegmentsAtOnce = 64;  // as kernels' arguments have room for

struct DeltaCall {
  GatedDeltaArgs args;  // its segments are these
  GatedDeltaSegment segments[kSegmentsAtOnce];
};

/// Tokens in shared memory.
template <int rows>
struct Tokens {
  // A quarter of a column's rows; behind it four values of nothing, so that the four
  // that lanes read at once lie in different banks.
  static constexpr int kQuarter = rows + 4;
  float q[kTokens][4 * kQuarter], k[kTokens][4 * kQuarter];
  float v[kTokens][kColumns];
  // What q and k are to be multiplied by, the decay of the state, beta.
  float q_scale[kTokens], k_scale[kTokens], decay[kTokens], beta[kTokens];
};

/// What a thread brings of the next tokens: of each that its warp has, some of q and k.
template <int rows>
struct Coming {
  static constexpr int kOfWarp = kTokens / kWarps;
  static constexpr int kOfLane = (4 * rows + 31) / 32;
  float q[kOfWarp][kOfLane], k[kOfWarp][kOfLane], v[kOfWarp], a[kOfWarp], b[kOfWarp];

  /// Tokens behind the last are zeros, and not read by anybody.
  __device__ void load(const GatedDeltaArgs& args, const GatedDeltaSegment& segment,
                       int head, int first_column, int first) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int key_head = head / (args.n_value_heads / args.n_key_heads);
    const int keys = args.n_key_heads * args.key_dim;
#pragma unroll
    for (int n = 0; n < kOfWarp; ++n) {
      const int t = first + n * kWarps + warp;
      const bool is = t < segment.tokens;
      const std::int64_t row = segment.row + t;
      const float* qkv = args.qkv + row * args.qkv_stride;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        const int at = i * 32 + lane;
        const bool has = is && at < args.key_dim;
        q[n][i] = has ? qkv[key_head * args.key_dim + at] : 0.0f;
        k[n][i] = has ? qkv[keys + key_head * args.key_dim + at] : 0.0f;
      }
      const int column = first_column + lane;
      v[n] = is && column < args.value_dim
                 ? qkv[2 * keys + head * args.value_dim + column]
                 : 0.0f;
      a[n] = is ? args.a[row * args.a_stride + head] : 0.0f;
      b[n] = is ? args.b[row * args.b_stride + head] : 0.0f;
    }
  }

  __device__ void store(const GatedDeltaArgs& args, int head, float a_log,
                        float dt_bias, Tokens<rows>& to) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kOfWarp; ++n) {
      const int token = n * kWarps + warp;
      float q_square = 0, k_square = 0;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        const int row = i * 32 + lane;
        if (row >= 4 * rows) continue;
        const int at = row / rows * Tokens<rows>::kQuarter + row % rows;
        to.q[token][at] = q[n][i];
        to.k[token][at] = k[n][i];
        q_square = fmaf(q[n][i], q[n][i], q_square);
        k_square = fmaf(k[n][i], k[n][i], k_square);
      }
      to.v[token][lane] = v[n];
      q_square = warp_sum(q_square);
      k_square = warp_sum(k_square);
      if (lane != 0) continue;
      constexpr float kEpsilon = 1e-6f;
      to.q_scale[token] =
          1 / sqrtf((q_square + kEpsilon) * static_cast<float>(args.key_dim));
      to.k_scale[token] = 1 / sqrtf(k_square + kEpsilon);
      const float x = a[n] + dt_bias;
      const float softplus = x > 20 ? x : log1pf(expf(x));
      to.decay[token] = expf(-expf(a_log) * softplus);
      to.beta[token] = 1 / (1 + expf(-b[n]));
    }
  }
};

/// `rows`: of a lane, a quarter of the key dim or more.
template <int rows>
__global__ void __launch_bounds__(kThreads)
    delta_columns(const __grid_constant__ DeltaCall call) {
  const GatedDeltaArgs& args = call.args;
  const GatedDeltaSegment& segment = call.segments[blockIdx.y];
  const int blocks_of_head = (args.value_dim + kColumns - 1) / kColumns;
  const int head = blockIdx.x / blocks_of_head;
  const int first_column = blockIdx.x % blocks_of_head * kColumns;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int of_block = warp * kColumnsOfWarp + lane % kColumnsOfWarp;
  const int quarter = lane / kColumnsOfWarp, column = first_column + of_block;
  const bool is = column < args.value_dim;
  const std::int64_t state_at =
      (static_cast<std::int64_t>(head) * args.key_dim + quarter * rows) *
          args.value_dim +
      column;
  const int rows_left = args.key_dim - quarter * rows;
  float S[rows];
#pragma unroll
  for (int i = 0; i < rows; ++i)
    S[i] = is && i < rows_left ? segment.state_in[state_at + i * args.value_dim] : 0.0f;
  const float a_log = args.a_log[head], dt_bias = args.dt_bias[head];
  auto* tokens = reinterpret_cast<Tokens<rows>*>(dynamic_shared());
  wait_for_inputs();

  Coming<rows> coming;
  coming.load(args, segment, head, first_column, 0);
  for (int first = 0; first < segment.tokens; first += kTokens) {
    // Of two places one is written while a slower warp still reads the other.
    Tokens<rows>& now = tokens[first / kTokens % 2];
    coming.store(args, head, a_log, dt_bias, now);
    __syncthreads();
    coming.load(args, segment, head, first_column, first + kTokens);
    const int n = min(kTokens, segment.tokens - first);
    for (int t = 0; t < n; ++t) {
      const auto* k =
          reinterpret_cast<const float4*>(now.k[t] + quarter * Tokens<rows>::kQuarter);
      const auto* q =
          reinterpret_cast<const float4*>(now.q[t] + quarter * Tokens<rows>::kQuarter);
      float sums[4] = {};
#pragma unroll
      for (int i = 0; i < rows; i += 4) {
        const float4 four = k[i / 4];
        sums[0] = fmaf(four.x, S[i], sums[0]);
        sums[1] = fmaf(four.y, S[i + 1], sums[1]);
        sums[2] = fmaf(four.z, S[i + 2], sums[2]);
        sums[3] = fmaf(four.w, S[i + 3], sums[3]);
      }
      const float decay = now.decay[t], k_scale = now.k_scale[t];
      float recalled = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      recalled += __shfl_xor_sync(~0u, recalled, 8);
      recalled += __shfl_xor_sync(~0u, recalled, 16);
      const float u =
          now.beta[t] * fmaf(-decay * k_scale, recalled, now.v[t][of_block]) * k_scale;
      sums[0] = sums[1] = sums[2] = sums[3] = 0;
#pragma unroll
      for (int i = 0; i < rows; i += 4) {
        const float4 key = k[i / 4], query = q[i / 4];
        S[i] = fmaf(key.x, u, decay * S[i]);
        S[i + 1] = fmaf(key.y, u, decay * S[i + 1]);
        S[i + 2] = fmaf(key.z, u, decay * S[i + 2]);
        S[i + 3] = fmaf(key.w, u, decay * S[i + 3]);
        sums[0] = fmaf(query.x, S[i], sums[0]);
        sums[1] = fmaf(query.y, S[i + 1], sums[1]);
        sums[2] = fmaf(query.z, S[i + 2], sums[2]);
        sums[3] = fmaf(query.w, S[i + 3], sums[3]);
      }
      float read = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      read += __shfl_xor_sync(~0u, read, 8);
      read += __shfl_xor_sync(~0u, read, 16);
      if (is && quarter == 0)
        args.o[((segment.row + first + t) * args.n_value_heads + head) *
                   args.value_dim +
               column] = read * now.q_scale[t];
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i)
    if (is && i < rows_left) segment.state_out[state_at + i * args.value_dim] = S[i];
}

template <int rows>
void start(const DeltaCall& call, int n_segments, const Launcher& launch) {
  DeltaCall copy = call;
  void* arguments[] = {&copy};
  const int blocks_of_head = (call.args.value_dim + kColumns - 1) / kColumns;
  launch(reinterpret_cast<const void*>(&delta_columns<rows>),
         {static_cast<unsigned>(call.args.n_value_heads * blocks_of_head),
          static_cast<unsigned>(n_segments), 1, kThreads, 2 * sizeof(Tokens<rows>)},
         arguments);
}

}  // namespace

void gated_delta(const GatedDeltaArgs& args, const Launcher& launch) {
  for (int first = 0; first < args.n_segments; first += kSegmentsAtOnce) {
    const int n = std::min(args.n_segments - first, kSegmentsAtOnce);
    DeltaCall call{args, {}};
    std::copy_n(args.segments + first, n, call.segments);
    if (args.key_dim <= 64)
      start<16>(call, n, launch);
    else if (args.key_dim <= 128)
      start<32>(call, n, launch);
    else
      start<kMostKeyDim / 4>(call, n, launch);
  }
}

}  // namespace optiq::kernels::cuda
