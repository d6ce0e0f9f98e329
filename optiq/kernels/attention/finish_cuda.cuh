// The end of attention for a row and head: its chunks put together, and what that gives
// taken out of the space in which values are stored.
#pragma once
#include "optiq/kernels/attention/attention_cuda.cuh"

namespace optiq::kernels::cuda {

/// The row among the chunks' tiles: `row` of a sequence and kv head, in the tile whose
/// first row is `first`.
struct ChunkedRow {
  int sequence, tile, first, row;
};

/// Puts the chunks of a row together in y [D], D <= threads * channels, by `threads`
/// threads of a block that all come here; of a warp, if 32.
template <int threads, int channels>
__device__ void put_together(const AttendArgs& a, const PagedRows& s,
                             const ChunkedRow& at, int kv_head, int last, int D,
                             float* y, float* shares) {
  const auto wait = [] {
    if constexpr (threads == 32)
      __syncwarp();
    else
      __syncthreads();
  };
  const int thread = threadIdx.x % threads, lane = threadIdx.x % 32;
  const int chunk = chunk_keys(a, s.cached + s.tokens);
  const KeyRange met = keys_of(a, s, at.first, last);
  float largest = -HUGE_VALF, sum = 0, values[channels] = {};
  // 32 chunks at a time, each lane with what one of them says of itself.
  const int end = (met.end + chunk - 1) / chunk;
  for (int c = met.begin / chunk; c < end; c += 32) {
    const int here = min(32, end - c);
    const float* parts = partial_of(a, at.sequence, at.tile, kv_head, c) +
                         static_cast<std::int64_t>(at.row - at.first) * (D + 2);
    const std::int64_t step = static_cast<std::int64_t>(a.tile_rows) * (D + 2);
    const float* mine = parts + min(lane, here - 1) * step;
    const float next = fmaxf(largest, warp_max(mine[D]));
    const float before = largest == next ? 1.0f : exp2f(largest - next);
    const float share = lane >= here      ? 0.0f
                        : mine[D] == next ? 1.0f
                                          : exp2f(mine[D] - next);
    sum = fmaf(sum, before, warp_sum(lane < here ? share * mine[D + 1] : 0.0f));
    largest = next;
    wait();
    if (thread < 32) shares[lane] = share;
    wait();
    // Loads of several chunks at once, as no warp has others to wait with.
#pragma unroll
    for (float& value : values) value *= before;
#pragma unroll 8
    for (int j = 0; j < here; ++j) {
#pragma unroll
      for (int i = 0; i < channels; ++i)
        if (const int channel = thread + i * threads; channel < D)
          values[i] = fmaf(parts[j * step + channel], shares[j], values[i]);
    }
  }
  const float of_sum = 1 / sum;
#pragma unroll
  for (int i = 0; i < channels; ++i)
    if (const int channel = thread + i * threads; channel < D)
      y[channel] = values[i] * of_sum;
  wait();
}

/// From the space of stored values to where y [D] goes, times the gate; by one warp.
__device__ inline void leave(const AttendArgs& a, std::int64_t row, int head, int D,
                             float* y, int lane) {
  const KvTransform& t = a.form.transform;
  if (t.v_signs) {
    hadamard(y, D, lane);
    multiply_by(y, t.v_signs, D, lane);
  }
  if (t.sum_scale)
    multiply_by(y, of_head_cuda(t.sum_scale, head / a.group, D), D, lane);

  const float* gate =
      a.gate.data ? a.gate.data + row * a.gate.row_stride + head * a.gate.head_stride
                  : nullptr;
  float* to = a.y + (row * a.n_heads + head) * D;
  for (int i = lane; i < D; i += 32) to[i] = gate ? y[i] / (1 + expf(-gate[i])) : y[i];
}

/// Chunks that the rows of a tile meet.
__device__ inline int chunks_of(const AttendArgs& a, const PagedRows& s, int first,
                                int last) {
  const int chunk = chunk_keys(a, s.cached + s.tokens);
  const KeyRange met = keys_of(a, s, first, last);
  return (met.end + chunk - 1) / chunk - met.begin / chunk;
}

/// Called by all threads of a block that has left its chunk of a tile: whichever of the
/// tile's blocks comes last ends its rows, and leaves the count of arrivals at zero.
/// `memory`: D + 32 floats a warp, in which the block has read its last.
template <int warps, int D>
__device__ void finish_if_last(const AttendArgs& a, const PagedRows& s, int sequence,
                               int tile, int kv_head, int first, int last,
                               float* memory) {
  if (!a.arrivals) return;
  __shared__ bool is_last;
  const unsigned before_last = chunks_of(a, s, first, last) - 1;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    is_last = before_last ==
              atomicInc(a.arrivals + (sequence * a.most_tiles + tile) * a.n_kv_heads +
                            kv_head,
                        before_last);
  __syncthreads();
  if (!is_last) return;
  __threadfence();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* y = memory + warp * (D + 32);

  for (int row = first + warp; row <= last; row += warps) {
    put_together<32, D / 32>(a, s, {sequence, tile, first, row}, kv_head, last, D, y,
                             y + D);

    const RowPlace at = place_of(a, s, kv_head, row);
    leave(a, at.row, at.head, D, y, lane);
    __syncwarp();
  }
}

}  // namespace optiq::kernels::cuda
