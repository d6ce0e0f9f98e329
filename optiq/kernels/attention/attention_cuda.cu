#include "optiq/kernels/attention/attention_cuda.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "optiq/kernels/attention/attention_cuda.cuh"
#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Plan {
  bool exact, by_warps;
  int tile_rows, most_tiles, most_chunks;
};

int ceil_div(int n, int by) { return (n + by - 1) / by; }

const KvLayout& layout_of(const PageForm& form) {
  return form.float_pages > 0 ? form.float_layout : form.coded_layout;
}

Plan plan_of(const PagedAttentionArgs& args) {
  const KvLayout& layout = layout_of(args.form);
  const int group = args.n_heads / layout.n_kv_heads;
  const bool exact = args.activation == Activation::kExact ||
                     stages_of_few(args.form) == 0 || stages_of_many(args.form) == 0;
  const int few = args.most_tokens < kFewTokens ? args.most_tokens : kFewTokens;
  // A shorter sequence has shorter chunks, and not more of them than the longest can.
  int most_chunks = 1;
  const bool by_warps = !exact && has_coded_pages(args.form);
  const auto count = [&](int keys) {
    if (keys <= args.most_keys)
      most_chunks = std::max(most_chunks, ceil_div(keys, chunk_keys(by_warps, keys)));
  };
  count(args.most_keys);
  for (const int keys : kChunkSteps) count(keys);
  if (exact) return {true, false, group, args.most_tokens, most_chunks};
  const int rows = few * group, of_tile = by_warps ? 8 : 16;
  return {false, by_warps, std::min(rows, of_tile), ceil_div(rows, of_tile),
          most_chunks};
}

std::size_t query_bytes(const PagedAttentionArgs& args, bool exact) {
  const std::size_t bytes = static_cast<std::size_t>(args.rows) * args.n_heads *
                            layout_of(args.form).head_dim * (exact ? 4 : 2);
  return (bytes + 15) / 16 * 16;
}

struct FinishArgs {
  AttendArgs attend;
  bool exact;
};

constexpr int kFinishThreads = 128;

// Puts the chunks of a row together, where it has any, and takes it out of the space
// in which values are stored. Grid: rows, heads.
__global__ void __launch_bounds__(kFinishThreads)
    finish_rows(const __grid_constant__ FinishArgs f) {
  extern __shared__ float y[];  // [D]
  __shared__ float shares[32];
  wait_for_inputs();
  const AttendArgs& a = f.attend;
  const int lane = threadIdx.x % 32, D = a.head_dim, group = a.n_heads / a.n_kv_heads;
  const std::int64_t at_row = blockIdx.x;
  const int head = blockIdx.y, kv_head = head / group;
  const int sequence = sequence_of(a.batch, blockIdx.x, lane);
  if (sequence < 0) return;
  const PagedRows s = a.batch.sequences[sequence];
  float* to = a.y + (at_row * a.n_heads + head) * D;
  const int row = static_cast<int>(at_row - s.row) * group + head % group;
  const int tile = row / a.tile_rows, first = tile * a.tile_rows;
  const int last = min(first + a.tile_rows, s.tokens * group) - 1;
  const bool has_chunks = f.exact || s.tokens <= kFewTokens;
  const int chunk = chunk_keys(a, s.cached + s.tokens);
  const KeyRange met = keys_of(a, s, first, last);
  float largest = -HUGE_VALF, sum = 0;
  for (int i = threadIdx.x; i < D; i += kFinishThreads) y[i] = has_chunks ? 0 : to[i];
  // 32 chunks at a time, each lane with what one of them says of itself.
  const int end = has_chunks ? (met.end + chunk - 1) / chunk : 0;
  for (int c = met.begin / chunk; c < end; c += 32) {
    const int here = min(32, end - c);
    const float* parts = partial_of(a, sequence, tile, kv_head, c) +
                         static_cast<std::int64_t>(row - first) * (D + 2);
    const std::int64_t step = static_cast<std::int64_t>(a.tile_rows) * (D + 2);
    const float* mine = parts + min(lane, here - 1) * step;
    const float next = fmaxf(largest, warp_max(mine[D]));
    const float before = largest == next ? 1.0f : exp2f(largest - next);
    const float share = lane >= here      ? 0.0f
                        : mine[D] == next ? 1.0f
                                          : exp2f(mine[D] - next);
    sum = fmaf(sum, before, warp_sum(lane < here ? share * mine[D + 1] : 0.0f));
    largest = next;
    __syncthreads();
    if (threadIdx.x < 32) shares[lane] = share;
    __syncthreads();
    for (int i = threadIdx.x; i < D; i += kFinishThreads) {
      float value = y[i] * before;
#pragma unroll 8
      for (int j = 0; j < here; ++j)
        value = fmaf(parts[j * step + i], shares[j], value);
      y[i] = value;
    }
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  if (has_chunks)
    for (int i = lane; i < D; i += 32) y[i] /= sum;
  __syncwarp();
  const KvTransform& t = a.form.transform;
  if (t.v_signs) {
    hadamard(y, D, lane);
    multiply_by(y, t.v_signs, D, lane);
  }
  multiply_by(y, of_head_cuda(t.sum_scale, kv_head, D), D, lane);
  const float* gate =
      a.gate.data ? a.gate.data + at_row * a.gate.row_stride + head * a.gate.head_stride
                  : nullptr;
  for (int i = lane; i < D; i += 32) to[i] = gate ? y[i] / (1 + expf(-gate[i])) : y[i];
}

}  // namespace

int stages_beside(std::size_t shared_bytes, int stage_bytes) {
  static const int limit = [] {
    int device = 0, bytes = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                               device) != cudaSuccess)
      throw std::runtime_error("attention: the device does not say what memory it has");
    return bytes;
  }();
  const int left = limit - static_cast<int>(shared_bytes);
  return left < stage_bytes ? 0 : left < 2 * stage_bytes ? 1 : 2;
}

void launch_shared(const void* kernel, const LaunchShape& shape, void** arguments,
                   const Launcher& launch) {
  const cudaError_t allowed =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shape.shared_bytes));
  if (allowed != cudaSuccess)
    throw std::runtime_error(std::string("attention: shared memory: ") +
                             cudaGetErrorString(allowed));
  launch(kernel, shape, arguments);
}

std::size_t attention_scratch_bytes(const PagedAttentionArgs& args) {
  const Plan plan = plan_of(args);
  const std::size_t queries = query_bytes(args, plan.exact);
  if (!plan.exact && !args.some_few) return queries;
  const KvLayout& layout = layout_of(args.form);
  return queries + static_cast<std::size_t>(args.batch.n_sequences) * plan.most_tiles *
                       layout.n_kv_heads * plan.most_chunks * plan.tile_rows *
                       (layout.head_dim + 2) * sizeof(float);
}

void attention(const PagedAttentionArgs& args, void* scratch, const Launcher& launch) {
  if (args.rows == 0) return;
  constexpr float kLog2E = 1.4426950408889634f;
  const Plan plan = plan_of(args);
  const KvLayout& layout = layout_of(args.form);
  make_queries_ready(args.form, args.rows,
                     {args.q, args.n_heads, args.scale * kLog2E, !plan.exact, scratch},
                     launch);
  const AttendArgs attend{args.form,
                          args.batch,
                          scratch,
                          args.gate,
                          args.y,
                          reinterpret_cast<float*>(static_cast<char*>(scratch) +
                                                   query_bytes(args, plan.exact)),
                          args.n_heads,
                          layout.n_kv_heads,
                          layout.head_dim,
                          args.window,
                          args.causal,
                          plan.by_warps,
                          plan.tile_rows,
                          plan.most_tiles,
                          plan.most_chunks,
                          0};
  if (plan.exact) {
    attend_exact(attend, launch);
  } else {
    if (args.some_few)
      plan.by_warps ? attend_coded(attend, launch) : attend_few(attend, launch);
    if (args.some_many) attend_many(attend, args.most_tokens, launch);
  }
  FinishArgs finish{attend, plan.exact};
  void* arguments[] = {&finish};
  launch(reinterpret_cast<const void*>(&finish_rows),
         {static_cast<unsigned>(args.rows), static_cast<unsigned>(args.n_heads), 1,
          kFinishThreads, layout.head_dim * sizeof(float)},
         arguments);
}

}  // namespace optiq::kernels::cuda
