// Heads on their way into attention, a warp to each.
#include "optiq/kernels/kv_page/enter_heads.cuh"

namespace optiq::kernels::cuda {
namespace {

__device__ void store_query(const EnteringHeads& heads, int row, int head, int dim,
                            const float* x, int lane) {
  const std::int64_t at = (static_cast<std::int64_t>(row) * heads.n_heads + head) * dim;
  for (int i = lane; i < dim; i += 32) {
    const float value = x[i] * heads.factor;
    if (heads.half)
      static_cast<__half*>(heads.queries)[at + i] = __float2half_rn(value);
    else
      static_cast<float*>(heads.queries)[at + i] = value;
  }
}

// Warps of a block, a head each: one where there are few rows, for heads to spread over
// the device.
constexpr int kEnterWarps = 4, kFewRows = 16;

// Grid: rows, heads of queries, of keys, of values. `n_warps`: of a row, one a head;
// a warp's floats: [head_dim], then a byte for each padded channel.
__global__ void enter_rows(const __grid_constant__ EnterArgs a, int n_warps,
                           int floats_of_warp) {
  extern __shared__ float memory[];
  wait_for_inputs();
  const int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32,
            n_heads = a.heads.q.data ? a.heads.n_heads : 0;
  int head = blockIdx.y * (blockDim.x / 32) + warp;
  if (head >= n_warps) return;
  float* x = memory + warp * floats_of_warp;
  if (head < n_heads) {
    bring_head(a, Entering::kQuery, row, head, a.head_dim, x, lane);

    store_query(a.heads, row, head, a.head_dim, x, lane);
    return;
  }
  head -= n_heads;
  const bool value = head >= a.n_kv_heads;
  const int sequence = sequence_of(a.batch, row, lane);
  if (sequence < 0) return;
  append<false>(a, value ? Entering::kValue : Entering::kKey,
                a.batch.sequences[sequence], row, value ? head - a.n_kv_heads : head,
                a.head_dim, x, lane);
}

}  // namespace

bool has_pages(const PageForm& form) {
  return form.coded_layout.k.format.kind != KvKind::kTurboQjl;
}

void enter_pages(const PageForm& form, const PagedBatch& batch, int rows,
                 const EnteringHeads& heads, const Launcher& launch) {
  EnterArgs args = entering(form, batch, heads);
  int n = (heads.q.data ? heads.n_heads : 0) + (heads.k.data ? 2 * args.n_kv_heads : 0);
  if (rows == 0 || n == 0) return;
  const int padded = (args.head_dim + kTileDepth - 1) / kTileDepth * kTileDepth;
  const int warps = rows > kFewRows ? kEnterWarps : 1;
  int floats = args.head_dim + padded / static_cast<int>(sizeof(float));
  void* arguments[] = {&args, &n, &floats};
  launch(reinterpret_cast<const void*>(&enter_rows),
         {static_cast<unsigned>(rows), static_cast<unsigned>((n + warps - 1) / warps),
          1, static_cast<unsigned>(32 * warps), warps * floats * sizeof(float)},
         arguments);
}

}  // namespace optiq::kernels::cuda
