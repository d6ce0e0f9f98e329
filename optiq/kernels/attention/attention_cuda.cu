#include "optiq/kernels/attention/attention_cuda.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "optiq/kernels/attention/attention.h"
#include "optiq/kernels/attention/attention_cuda.cuh"
#include "optiq/kernels/attention/finish_cuda.cuh"
#include "optiq/kernels/cuda_device.cuh"

namespace optiq::kernels::cuda {
namespace {

struct Plan {
  Way way;
  int tile_rows, most_tiles, most_chunks;
  // The last of a tile's blocks ends its rows: chunks are few, and so is what is left.
  bool ends_in_block;
  // Queries, keys and values are brought in by a kernel, not by attention's blocks.
  bool enters;

  bool exact() const { return way == Way::kExact; }
};

// Chunks that warps of one block put together faster than blocks of their own, which
// come later.
constexpr int kFewChunks = 64;

// Sequences with coded pages for whose queries, which each chunk's block makes ready
// anew, there are processors to spare.
constexpr int kFewSequences = 2;

// Counts of arrivals, zero but while a call runs; calls follow one another.
constexpr int kMostTiles = 1 << 16;
__device__ unsigned tile_arrivals[kMostTiles];

unsigned* arrivals() {
  static void* const at = [] {
    void* symbol = nullptr;
    const cudaError_t found = cudaGetSymbolAddress(&symbol, tile_arrivals);
    if (found != cudaSuccess)
      throw std::runtime_error(std::string("attention: ") + cudaGetErrorString(found));
    return symbol;
  }();
  return static_cast<unsigned*>(at);
}

int ceil_div(int n, int by) { return (n + by - 1) / by; }

const KvLayout& layout_of(const PageForm& form) {
  return form.float_pages > 0 ? form.float_layout : form.coded_layout;
}

Way way_of(const PagedAttentionArgs& args) {
  if (args.activation == Activation::kExact || stages_of_few(args.form) == 0 ||
      stages_of_many(args.form) == 0)
    return Way::kExact;
  return has_coded_pages(args.form)   ? Way::kCoded
         : has_float_pages(args.form) ? Way::kFloat
                                      : Way::kFew;
}

Plan plan_of(const PagedAttentionArgs& args) {
  const KvLayout& layout = layout_of(args.form);
  const int group = args.n_heads / layout.n_kv_heads;
  const Way way = way_of(args);
  // A shorter sequence has shorter chunks, and not more of them than the longest can.
  int most_chunks = 1;
  const auto count = [&](int keys) {
    if (keys <= args.most_keys)
      most_chunks = std::max(most_chunks, ceil_div(keys, chunk_keys(way, keys)));
  };
  count(args.most_keys);
  for (const int keys : kChunkSteps) count(keys);
  if (way == Way::kFloat && args.most_keys > kChunkSteps[0])
    most_chunks = std::max(most_chunks, kMostFloatChunks);
  if (way == Way::kCoded && args.most_keys > kChunkSteps[1])
    most_chunks = kMostCodedChunks;
  if (way == Way::kExact)
    return {way, group, args.most_tokens, most_chunks, false, true};
  const int rows = std::min(args.most_tokens, kFewTokens) * group;
  const int of_tile = way == Way::kFew ? 16 : 8, most_tiles = ceil_div(rows, of_tile);
  const bool counted =
      std::int64_t{args.batch.n_sequences} * most_tiles * layout.n_kv_heads <=
      kMostTiles;
  return {way,
          std::min(rows, of_tile),
          most_tiles,
          most_chunks,
          counted && !args.some_many && most_chunks <= kFewChunks,
          args.some_many || way == Way::kFew ||
              // Codes are entered once: whose bits they set may not be read meanwhile.
              (way == Way::kCoded &&
               (most_tiles > 1 || args.batch.n_sequences > kFewSequences))};
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
  const int lane = threadIdx.x % 32, D = a.head_dim, group = a.group;
  const std::int64_t at_row = blockIdx.x;
  const int head = blockIdx.y, kv_head = head / group;
  const int sequence = sequence_of(a.batch, blockIdx.x, lane);
  if (sequence < 0) return;
  const PagedRows s = a.batch.sequences[sequence];
  const int row = static_cast<int>(at_row - s.row) * group + head % group;
  const int tile = row / a.tile_rows, first = tile * a.tile_rows;
  const int last = min(first + a.tile_rows, s.tokens * group) - 1;
  if (f.exact || s.tokens <= kFewTokens) {
    put_together<kFinishThreads, kMaxHeadDim / kFinishThreads>(
        a, s, {sequence, tile, first, row}, kv_head, last, D, y, shares);
  } else {
    const float* from = a.y + (at_row * a.n_heads + head) * D;
    for (int i = threadIdx.x; i < D; i += kFinishThreads) y[i] = from[i];
    __syncthreads();
  }
  if (threadIdx.x < 32) leave(a, at_row, head, D, y, lane);
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
  const std::size_t queries = plan.enters ? query_bytes(args, plan.exact()) : 0;
  if (!plan.exact() && !args.some_few) return queries;
  const KvLayout& layout = layout_of(args.form);
  const std::size_t tiles = static_cast<std::size_t>(args.batch.n_sequences) *
                            plan.most_tiles * layout.n_kv_heads;
  return queries + tiles * plan.most_chunks * plan.tile_rows * (layout.head_dim + 2) *
                       sizeof(float);
}

void attention(const PagedAttentionArgs& args, void* scratch, const Launcher& launch) {
  if (args.rows == 0) return;
  constexpr float kLog2E = 1.4426950408889634f;
  const Plan plan = plan_of(args);
  const KvLayout& layout = layout_of(args.form);
  EnteringHeads heads = args.heads;
  heads.n_heads = args.n_heads;
  heads.factor = args.scale * kLog2E;
  heads.half = !plan.exact();
  heads.queries = scratch;
  if (plan.enters) enter_pages(args.form, args.batch, args.rows, heads, launch);
  auto* partial =
      reinterpret_cast<float*>(static_cast<char*>(scratch) +
                               (plan.enters ? query_bytes(args, plan.exact()) : 0));
  const AttendArgs attend{args.form,
                          args.batch,
                          plan.enters ? scratch : nullptr,
                          args.gate,
                          args.y,
                          partial,
                          plan.ends_in_block ? arrivals() : nullptr,
                          args.n_heads,
                          layout.n_kv_heads,
                          layout.head_dim,
                          args.n_heads / layout.n_kv_heads,
                          args.window,
                          args.causal,
                          plan.way,
                          plan.tile_rows,
                          plan.most_tiles,
                          plan.most_chunks,
                          0};
  if (plan.exact()) {
    attend_exact(attend, launch);
  } else {
    if (args.some_few) {
      const EnterArgs enter = entering(args.form, args.batch, heads);
      if (plan.way == Way::kFew)
        attend_few(attend, launch);
      else
        plan.way == Way::kCoded ? attend_coded(attend, enter, launch)
                                : attend_float(attend, enter, launch);
    }
    if (args.some_many) attend_many(attend, args.most_tokens, launch);
  }
  // Rows of attend_many alone may have nothing to be turned back or gated by.
  const KvTransform& transform = args.form.transform;
  const bool all_done = !plan.exact() && !args.some_few && !args.gate.data &&
                        !transform.v_signs && !transform.sum_scale;
  if (plan.ends_in_block || all_done) return;
  FinishArgs finish{attend, plan.exact()};
  void* arguments[] = {&finish};
  launch(reinterpret_cast<const void*>(&finish_rows),
         {static_cast<unsigned>(args.rows), static_cast<unsigned>(args.n_heads), 1,
          kFinishThreads, layout.head_dim * sizeof(float)},
         arguments);
}

}  // namespace optiq::kernels::cuda
