// The rows of one token and kv head over a chunk of the context, in float32, for any
// head dim and format: what --exact asks for, and what tiles do not fit. Eight keys at
// a time are decoded into shared memory, and as many values.
#include "optiq/kernels/attention/attention_cuda.cuh"
#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kKeys = 8;  // at a time

// Floats of shared memory: queries and sums [group, D], decoded [kKeys, D], scores and
// weights [group, kKeys], and of each row its largest, its sum and its change.
std::size_t shared_floats(int group, int head_dim) {
  return static_cast<std::size_t>(2 * group + kKeys) * head_dim +
         static_cast<std::size_t>(group) * (kKeys + 3);
}

template <bool keys>
__device__ void decode(const AttendArgs& a, std::byte* const* table, int head, int from,
                       int count, float* to) {
  const int D = a.head_dim;
  for (int i = threadIdx.x; i < count * D; i += kThreads) {
    const int token = from + i / D;
    const auto [layout, at] = head_in_page(a.form, table, token / kPageTokens, head);
    to[i] = stored_value<keys>(keys ? layout->k : layout->v, at, i % D,
                               token % kPageTokens, D);
  }
}

// Grid: chunks, tokens of all kv heads, sequences.
__global__ void __launch_bounds__(kThreads)
    attend_exact_rows(const __grid_constant__ AttendArgs a) {
  extern __shared__ float memory[];
  wait_for_inputs();
  const PagedRows s = a.batch.sequences[blockIdx.z];
  const int token = blockIdx.y / a.n_kv_heads, head = blockIdx.y % a.n_kv_heads;
  if (token >= s.tokens) return;
  const int D = a.head_dim, group = a.group;
  const int chunk = chunk_keys(a, s.cached + s.tokens), first = token * group;
  const KeyRange met = keys_of(a, s, first, first + group - 1);
  const int begin = max(met.begin, static_cast<int>(blockIdx.x) * chunk);
  const int end = min(met.end, static_cast<int>(blockIdx.x + 1) * chunk);
  if (begin >= end) return;
  float* q = memory;
  float* y = q + group * D;
  float* decoded = y + group * D;
  float* weights = decoded + kKeys * D;
  float* largest = weights + group * kKeys;
  float* sums = largest + group;
  float* changes = sums + group;
  const RowPlace place = place_of(a, s, head, first);
  const float* from_q =
      static_cast<const float*>(a.queries) + (place.row * a.n_heads + place.head) * D;
  for (int i = threadIdx.x; i < group * D; i += kThreads) q[i] = from_q[i], y[i] = 0;
  for (int i = threadIdx.x; i < group; i += kThreads)
    largest[i] = -HUGE_VALF, sums[i] = 0;
  std::byte* const* table = a.batch.table + s.first_page;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int from = begin; from < end; from += kKeys) {
    const int count = min(kKeys, end - from);
    __syncthreads();
    decode<true>(a, table, head, from, count, decoded);
    __syncthreads();
    for (int pair = warp; pair < group * count; pair += kThreads / 32) {
      const int row = pair / count, key = pair % count;
      float score = 0;
      for (int i = lane; i < D; i += 32)
        score = fmaf(q[row * D + i], decoded[key * D + i], score);
      score = warp_sum(score);
      if (lane == 0) weights[row * kKeys + key] = score;
    }
    __syncthreads();
    for (int row = threadIdx.x; row < group; row += kThreads) {
      float next = largest[row];
      for (int key = 0; key < count; ++key)
        next = fmaxf(next, weights[row * kKeys + key]);
      changes[row] = largest[row] == next ? 1.0f : exp2f(largest[row] - next);
      float sum = sums[row] * changes[row];
      const float base = next == -HUGE_VALF ? 0.0f : next;
      for (int key = 0; key < count; ++key) {
        float& weight = weights[row * kKeys + key];
        weight = exp2f(weight - base);
        sum += weight;
      }
      largest[row] = next;
      sums[row] = sum;
    }
    decode<false>(a, table, head, from, count, decoded);
    __syncthreads();
    for (int i = threadIdx.x; i < group * D; i += kThreads) {
      const int row = i / D, channel = i % D;
      float sum = y[i] * changes[row];
      for (int key = 0; key < count; ++key)
        sum = fmaf(weights[row * kKeys + key], decoded[key * D + channel], sum);
      y[i] = sum;
    }
  }
  __syncthreads();
  float* to = partial_of(a, blockIdx.z, token, head, blockIdx.x);
  for (int i = threadIdx.x; i < group * D; i += kThreads)
    to[i / D * (D + 2) + i % D] = y[i];
  for (int row = threadIdx.x; row < group; row += kThreads) {
    to[row * (D + 2) + D] = largest[row];
    to[row * (D + 2) + D + 1] = sums[row];
  }
}

}  // namespace

void attend_exact(const AttendArgs& args, const Launcher& launch) {
  AttendArgs copy = args;
  void* arguments[] = {&copy};
  launch_shared(reinterpret_cast<const void*>(&attend_exact_rows),
                {static_cast<unsigned>(args.most_chunks),
                 static_cast<unsigned>(args.most_tiles * args.n_kv_heads),
                 static_cast<unsigned>(args.batch.n_sequences), kThreads,
                 shared_floats(args.group, args.head_dim) * sizeof(float)},
                arguments, launch);
}

}  // namespace optiq::kernels::cuda
