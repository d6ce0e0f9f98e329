// What a block of attention brings in by itself, where a kernel before it would take
// longer than that does: queries of its rows, and the keys and values that enter its
// chunk.
#pragma once
#include "optiq/kernels/attention/attention_cuda.cuh"

namespace optiq::kernels::cuda {

struct BringingArgs {
  AttendArgs attend;
  EnterArgs enter;
};

/// The first token that a block enters of those before `end`; `end`: none.
__device__ inline int first_entering(const BringingArgs& args, const PagedRows& s,
                                     int begin, int end) {
  return args.enter.heads.k.data ? min(end, max(begin, s.cached)) : end;
}

/// Rows [first, first + count) of a sequence and kv head to `queries`, `stride` apart,
/// and tokens [first_new, end) into their pages, by the warps of a block. `x`: a warp's
/// own D floats and, unless `only_floats`, D bytes.
template <int D, int warps, bool only_floats>
__device__ void bring_in(const BringingArgs& args, const PagedRows& s, int head,
                         int first, int count, int first_new, int end, float* x,
                         __half* queries, int stride) {
  const EnterArgs& enter = args.enter;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = warp; i < count + 2 * (end - first_new); i += warps) {
    if (i < count) {
      const RowPlace place = place_of(args.attend, s, head, first + i);
      bring_head(enter, Entering::kQuery, static_cast<int>(place.row), place.head, D, x,
                 lane);
      for (int channel = lane; channel < D; channel += 32)
        queries[i * stride + channel] =
            __float2half_rn(x[channel] * enter.heads.factor);
    } else {
      const int token = first_new + (i - count) / 2;
      append<only_floats>(enter,
                          (i - count) % 2 == 0 ? Entering::kKey : Entering::kValue, s,
                          s.row + token - s.cached, head, D, x, lane);
    }
    __syncwarp();
  }
}

}  // namespace optiq::kernels::cuda
