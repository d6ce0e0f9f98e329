#include "optiq/kernels/attention/attention_cuda.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "optiq/kernels/attention/attention_cuda.cuh"
#include "optiq/kernels/attention/finish_cuda.cuh"
#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Plan {
  bool exact, by_warps;
  int tile_rows, most_tiles, most_chunks;
  // The last of a tile's blocks ends its rows: chunks are few, and so is what is left.
  bool ends_in_block;
};

// Chunks that warps of one block put together as fast as blocks of their own.
constexpr int kFewChunks = 8;

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
  if (exact) return {true, false, group, args.most_tokens, most_chunks, false};
  const int rows = few * group, of_tile = by_warps ? 8 : 16;
  return {false,
          by_warps,
          std::min(rows, of_tile),
          ceil_div(rows, of_tile),
          most_chunks,
          most_chunks <= kFewChunks && !args.some_many};
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

// Ends the rows that no block of theirs has ended. Grid: rows, heads.
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
  const int row = static_cast<int>(at_row - s.row) * group + head % group;
  const int tile = row / a.tile_rows, first = tile * a.tile_rows;
  const int last = min(first + a.tile_rows, s.tokens * group) - 1;
  if (f.exact || s.tokens <= kFewTokens) {
    put_together<kFinishThreads>(a, s, {sequence, tile, first, row}, kv_head, last, y,
                                 shares);
  } else {
    const float* from = a.y + (at_row * a.n_heads + head) * D;
    for (int i = threadIdx.x; i < D; i += kFinishThreads) y[i] = from[i];
    __syncthreads();
  }
  if (threadIdx.x < 32) leave(a, at_row, head, y, lane);
}

}  // namespace

int stages_beside(std::size_t shared_bytes, int stage_bytes) {
  const int left = shared_memory() - static_cast<int>(shared_bytes);
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
  const std::size_t tiles = static_cast<std::size_t>(args.batch.n_sequences) *
                            plan.most_tiles * layout.n_kv_heads;
  return queries +
         tiles * plan.most_chunks * plan.tile_rows * (layout.head_dim + 2) *
             sizeof(float) +
         tiles * sizeof(int);
}

void attention(const PagedAttentionArgs& args, void* scratch, const Launcher& launch) {
  if (args.rows == 0) return;
  constexpr float kLog2E = 1.4426950408889634f;
  const Plan plan = plan_of(args);
  const KvLayout& layout = layout_of(args.form);
  EnteringHeads heads = args.heads;
  heads.n_heads = args.n_heads;
  heads.factor = args.scale * kLog2E;
  heads.half = !plan.exact;
  heads.queries = scratch;
  auto* partial = reinterpret_cast<float*>(static_cast<char*>(scratch) +
                                           query_bytes(args, plan.exact));
  if (plan.ends_in_block) {
    heads.n_zeros = args.batch.n_sequences * plan.most_tiles * layout.n_kv_heads;
    heads.zeros = reinterpret_cast<int*>(
        partial + static_cast<std::int64_t>(heads.n_zeros) * plan.most_chunks *
                      plan.tile_rows * (layout.head_dim + 2));
  }
  enter_pages(args.form, args.batch, args.rows, heads, launch);
  const AttendArgs attend{args.form,
                          args.batch,
                          scratch,
                          args.gate,
                          args.y,
                          partial,
                          heads.zeros,
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
  // Rows of attend_many alone may have nothing to be turned back or gated by.
  const KvTransform& transform = args.form.transform;
  const bool all_done = !plan.exact && !args.some_few && !args.gate.data &&
                        !transform.v_signs && !transform.sum_scale;
  if (plan.ends_in_block || all_done) return;
  FinishArgs finish{attend, plan.exact};
  void* arguments[] = {&finish};
  launch(reinterpret_cast<const void*>(&finish_rows),
         {static_cast<unsigned>(args.rows), static_cast<unsigned>(args.n_heads), 1,
          kFinishThreads, layout.head_dim * sizeof(float)},
         arguments);
}

}  // namespace optiq::kernels::cuda
