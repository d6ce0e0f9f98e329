// A block has a head's whole state in its registers, and the gradient by it: a thread a
// quarter of a column of each. Sums over rows meet in shared memory; those over columns
// are shuffled so that each lane ends with a row's.
#include "optiq/kernels/gated_delta/gated_delta_backward_cuda.h"

#include <algorithm>

#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kDim = kMostBackwardDim, kRows = kDim / 4;  // of a thread
constexpr int kThreads = 4 * kDim, kWarps = kThreads / 32;
constexpr int kRun = kGatedDeltaKept;  // tokens whose states are kept at once
constexpr int kSegmentsAtOnce = 32;

struct BackwardSegment {
  GatedDeltaSegment rows;
  const float* d_state;  // null: zero
  float* kept;           // [Hv, one for each run of tokens, kRows, kThreads]
};

struct BackwardCall {
  GatedDeltaArgs f;
  const float* d_o;
  float *d_qkv, *d_a, *d_b;
  float* d_qk;    // [rows, Hv, 2, Dk], by q and k as they meet the state
  float* states;  // [segments, Hv, kRun, kRows, kThreads]
  BackwardSegment segments[kSegmentsAtOnce];
};

/// One token as it meets the state.
struct Token {
  float q[kDim], k[kDim];  // of length one, q times Dk^-1/2
  float miss[kDim], u[kDim];
  float decay, slope, beta;
};

struct BackwardMemory {
  Token tokens[kRun];
  float of_rows[4][kDim];        // of each quarter, by column
  float of_columns[2][4][kDim];  // by q and by k, of each 32 columns, by row
  float by_decay[kWarps], by_beta[kWarps];
};

/// The sum over lanes of v[lane], for each lane.
__device__ inline float sums_by_lane(float (&v)[kRows]) {
  static_assert(kRows == 32);
  const int lane = threadIdx.x % 32;
  const auto halve = [&]<int step>() {
    const bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float given = upper ? v[i] : v[i + step];
      v[i] = (upper ? v[i + step] : v[i]) + __shfl_xor_sync(~0u, given, step);
    }
  };
  halve.template operator()<16>();
  halve.template operator()<8>();
  halve.template operator()<4>();
  halve.template operator()<2>();
  halve.template operator()<1>();
  return v[0];
}

__global__ void __launch_bounds__(kThreads)
    delta_backward(const __grid_constant__ BackwardCall call) {
  auto& memory = *reinterpret_cast<BackwardMemory*>(dynamic_shared());
  const GatedDeltaArgs& f = call.f;
  const BackwardSegment& segment = call.segments[blockIdx.y];
  const int head = blockIdx.x, thread = threadIdx.x, warp = thread / 32,
            lane = thread % 32;
  const int column = thread % kDim, quarter = thread / kDim,
            first_row = quarter * kRows;
  const bool is = column < f.value_dim;
  const int key_head = head / (f.n_value_heads / f.n_key_heads);
  const int keys = f.n_key_heads * f.key_dim;
  const std::int64_t width =
      2 * keys + static_cast<std::int64_t>(f.n_value_heads) * f.value_dim;
  const int n_runs = (segment.rows.tokens + kRun - 1) / kRun;
  float* const kept =
      segment.kept + static_cast<std::int64_t>(head) * n_runs * kDim * kDim + thread;
  float* const states =
      call.states +
      (static_cast<std::int64_t>(blockIdx.y) * f.n_value_heads + head) * kRun * kDim *
          kDim +
      thread;
  wait_for_inputs();

  const std::int64_t of_head =
      static_cast<std::int64_t>(head) * f.key_dim * f.value_dim + column;
  const auto load_state = [&](const float* from, float(&to)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = first_row + i;
      to[i] = from && is && row < f.key_dim ? from[of_head + row * f.value_dim] : 0.0f;
    }
  };
  // Brings a token; ends with a barrier.
  const auto bring = [&](int t, Token& to) {
    const std::int64_t row = segment.rows.row + t;
    const float* x = f.qkv + row * f.qkv_stride + key_head * f.key_dim;
    if (warp < 2) {  // q and k
      float v[kDim / 32], square = 0;
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) {
        const int at = i * 32 + lane;
        v[i] = at < f.key_dim ? x[(warp == 0 ? 0 : keys) + at] : 0.0f;
        square = fmaf(v[i], v[i], square);
      }
      square = warp_sum(square) + 1e-6f;
      const float scale =
          1 / sqrtf(warp == 0 ? square * static_cast<float>(f.key_dim) : square);
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i)
        (warp == 0 ? to.q : to.k)[i * 32 + lane] = v[i] * scale;
    } else if (warp == 2 && lane == 0) {
      const float z = f.a[row * f.a_stride + head] + f.dt_bias[head];
      const float rate = expf(f.a_log[head]);
      to.decay = expf(-rate * (z > 20 ? z : log1pf(expf(z))));
      to.slope = -rate / (1 + expf(-z));
      to.beta = 1 / (1 + expf(-f.b[row * f.b_stride + head]));
    }
    __syncthreads();
  };
  // The sum over rows of a column's four quarters; begins with what each has summed.
  const auto sum_of_rows = [&](float mine) {
    memory.of_rows[quarter][column] = mine;
    __syncthreads();
    const float sum = (memory.of_rows[0][column] + memory.of_rows[1][column]) +
                      (memory.of_rows[2][column] + memory.of_rows[3][column]);
    __syncthreads();
    return sum;
  };
  float S[kRows];
  // S decays, is shown to `decayed`, and takes the token in.
  const auto step = [&](int t, Token& token, auto&& decayed) {
    bring(t, token);
    float recalled = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      S[i] *= token.decay;
      recalled = fmaf(token.k[first_row + i], S[i], recalled);
    }
    decayed();
    const float v = is ? f.qkv[(segment.rows.row + t) * f.qkv_stride + 2 * keys +
                               head * f.value_dim + column]
                       : 0.0f;
    const float miss = v - sum_of_rows(recalled), u = token.beta * miss;
    if (quarter == 0) token.miss[column] = miss, token.u[column] = u;
#pragma unroll
    for (int i = 0; i < kRows; ++i) S[i] = fmaf(token.k[first_row + i], u, S[i]);
  };

  load_state(segment.rows.state_in, S);
  for (int t = 0; t < segment.rows.tokens; ++t) {
    if (t % kRun == 0)
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        kept[(static_cast<std::int64_t>(t / kRun) * kRows + i) * kThreads] = S[i];
    // Of two places one is written while a slower warp still reads the other.
    step(t, memory.tokens[t % 2], [] {});
  }

  float D[kRows];
  load_state(segment.d_state, D);
  for (int run = n_runs - 1; run >= 0; --run) {
    const int begin = run * kRun, n = min(kRun, segment.rows.tokens - begin);
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      S[i] = kept[(static_cast<std::int64_t>(run) * kRows + i) * kThreads];
    for (int t = 0; t < n; ++t)
      step(begin + t, memory.tokens[t], [&] {
#pragma unroll
        for (int i = 0; i < kRows; ++i) states[(t * kRows + i) * kThreads] = S[i];
      });
    __syncthreads();
    for (int t = n - 1; t >= 0; --t) {
      const Token& token = memory.tokens[t];
      const std::int64_t row = segment.rows.row + begin + t;
      const std::int64_t of_row = row * f.n_value_heads + head;
      const float d_o = is ? call.d_o[of_row * f.value_dim + column] : 0.0f;
      const float u = token.u[column];
      float decayed[kRows], by_row[kRows], of_rows = 0;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        decayed[i] = states[(t * kRows + i) * kThreads];
        const float k = token.k[first_row + i];
        D[i] = fmaf(token.q[first_row + i], d_o, D[i]);
        by_row[i] = fmaf(k, u, decayed[i]) * d_o;
        of_rows = fmaf(D[i], k, of_rows);
      }
      const int of_columns = column / 32;
      memory.of_columns[0][of_columns][first_row + lane] = sums_by_lane(by_row);
      const float du = sum_of_rows(of_rows), dv = token.beta * du;
      float by_decay = 0;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        by_row[i] = fmaf(D[i], u, -decayed[i] * dv);
        D[i] = fmaf(-token.k[first_row + i], dv, D[i]);
        by_decay = fmaf(D[i], decayed[i], by_decay);
        D[i] *= token.decay;
      }
      memory.of_columns[1][of_columns][first_row + lane] = sums_by_lane(by_row);
      by_decay = warp_sum(by_decay);
      const float by_beta = warp_sum(quarter == 0 ? du * token.miss[column] : 0.0f);
      if (lane == 0) memory.by_decay[warp] = by_decay, memory.by_beta[warp] = by_beta;
      if (quarter == 0 && is)
        call.d_qkv[row * width + 2 * keys + head * f.value_dim + column] = dv;
      __syncthreads();
      if (thread < 2 * kDim) {
        const int which = thread / kDim;
        const auto& sums = memory.of_columns[which];
        if (column < f.key_dim)
          call.d_qk[(of_row * 2 + which) * f.key_dim + column] =
              (sums[0][column] + sums[1][column]) + (sums[2][column] + sums[3][column]);
      } else if (thread == 2 * kDim) {
        float g = 0, b = 0;
        for (int i = 0; i < kWarps; ++i)
          g += memory.by_decay[i], b += memory.by_beta[i];
        call.d_a[of_row] = g * token.slope;
        call.d_b[of_row] = b * token.beta * (1 - token.beta);
      }
      __syncthreads();
    }
  }
}

// Through the lengths of q and k, added up over the value heads that read them: a warp
// for each of a token's key heads.
__global__ void through_lengths(const __grid_constant__ BackwardCall call) {
  const GatedDeltaArgs& f = call.f;
  const int lane = threadIdx.x, key_head = blockIdx.y / 2, which = blockIdx.y % 2;
  const int group = f.n_value_heads / f.n_key_heads, dim = f.key_dim;
  const std::int64_t row = blockIdx.x;
  wait_for_inputs();
  const int at = (which == 0 ? 0 : f.n_key_heads * dim) + key_head * dim;
  const float* x = f.qkv + row * f.qkv_stride + at;
  const std::int64_t width = 2 * f.n_key_heads * dim +
                             static_cast<std::int64_t>(f.n_value_heads) * f.value_dim;
  float dy[kDim / 32], v[kDim / 32], square = 0, along = 0;
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i) {
    const int n = i * 32 + lane;
    v[i] = n < dim ? x[n] : 0.0f;
    dy[i] = 0;
    for (int h = 0; h < group && n < dim; ++h)
      dy[i] +=
          call.d_qk[((row * f.n_value_heads + key_head * group + h) * 2 + which) * dim +
                    n];
    square = fmaf(v[i], v[i], square);
    along = fmaf(dy[i], v[i], along);
  }
  square = warp_sum(square) + 1e-6f;
  along = warp_sum(along) / square;
  const float inverse =
      1 / sqrtf(which == 0 ? square * static_cast<float>(dim) : square);
#pragma unroll
  for (int i = 0; i < kDim / 32; ++i)
    if (const int n = i * 32 + lane; n < dim)
      call.d_qkv[row * width + at + n] = inverse * (dy[i] - v[i] * along);
}

int runs_of(const GatedDeltaSegment& segment) {
  return (segment.tokens + kRun - 1) / kRun;
}

// Where a call's memory lies, in floats.
struct Scratch {
  std::int64_t rows = 0, kept = 0, states = 0, d_qk = 0;

  explicit Scratch(const GatedDeltaArgs& f) {
    for (int i = 0; i < f.n_segments; ++i) {
      rows += f.segments[i].tokens;
      kept += std::int64_t{1} * f.n_value_heads * runs_of(f.segments[i]) * kDim * kDim;
    }
    states = std::int64_t{1} * std::min(f.n_segments, kSegmentsAtOnce) *
             f.n_value_heads * kRun * kDim * kDim;
    d_qk = rows * f.n_value_heads * 2 * f.key_dim;
  }
};

}  // namespace

std::size_t gated_delta_backward_bytes(const GatedDeltaBackwardArgs& args) {
  const Scratch s(args.forward);
  return static_cast<std::size_t>(s.kept + s.states + s.d_qk) * sizeof(float);
}

void gated_delta_backward(const GatedDeltaBackwardArgs& args, void* scratch,
                          const Launcher& launch) {
  const GatedDeltaArgs& f = args.forward;
  const Scratch s(f);
  if (s.rows == 0) return;
  auto* kept = static_cast<float*>(scratch);
  BackwardCall call{f, args.d_o, args.d_qkv, args.d_a, args.d_b, nullptr, nullptr, {}};
  call.states = kept + s.kept;
  call.d_qk = call.states + s.states;
  void* arguments[] = {&call};
  static_assert(sizeof(BackwardMemory) <= 48 << 10);
  for (int first = 0; first < f.n_segments; first += kSegmentsAtOnce) {
    const int n = std::min(f.n_segments - first, kSegmentsAtOnce);
    for (int i = 0; i < n; ++i) {
      const GatedDeltaSegment& segment = f.segments[first + i];
      call.segments[i] = {segment, args.d_states ? args.d_states[first + i] : nullptr,
                          kept};
      kept += std::int64_t{1} * f.n_value_heads * runs_of(segment) * kDim * kDim;
    }
    launch(reinterpret_cast<const void*>(&delta_backward),
           {static_cast<unsigned>(f.n_value_heads), static_cast<unsigned>(n), 1,
            kThreads, sizeof(BackwardMemory)},
           arguments);
  }
  launch(
      reinterpret_cast<const void*>(&through_lengths),
      {static_cast<unsigned>(s.rows), static_cast<unsigned>(2 * f.n_key_heads), 1, 32},
      arguments);
}

}  // namespace optiq::kernels::cuda
