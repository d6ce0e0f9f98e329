// 128 rows of one kv head over all keys that they meet: prefill, bound by
// multiply-adds. Each of eight warps has 16 rows; a page is decoded once for all of
// them. Scores never leave the registers: as sums they lie where the next product
// takes its left operand from.
#include <algorithm>

#include "optiq/kernels/attention/attention_cuda.cuh"
#include "optiq/kernels/attention/page_tile_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16 * kWarps;

// Blocks on a processor, as registers allow.
template <int D>
inline constexpr int kBlocks = D <= 128 ? 2 : 1;

template <int D>
struct Shared {
  __half keys[kKeyHalves<D>];
  __half values[kValueHalves<D>];
  __half queries[kRows * (D + kPad)];
};

// Grid: tiles (those with most keys first), kv heads, sequences.
template <int D>
__global__ void __launch_bounds__(kThreads, kBlocks<D>)
    attend_many_rows(const __grid_constant__ AttendArgs a) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<D>*>(memory);
  wait_for_inputs();
  const PagedRows s = a.batch.sequences[blockIdx.z];
  const int tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y;
  const int rows = s.tokens * a.group, first = tile * kRows;
  if (s.tokens <= kFewTokens || first >= rows) return;
  const int last = min(first + kRows, rows) - 1;
  const KeyRange met = keys_of(a, s, first, last);
  PageQueue<kThreads> queue(a.form, a.batch.table + s.first_page, head,
                            met.begin / kPageTokens,
                            (met.end + kPageTokens - 1) / kPageTokens, a.stages,
                            reinterpret_cast<std::byte*>(memory + sizeof(Shared<D>)));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4,
            t = lane % 4;
  for (int i = threadIdx.x; i < kRows * (D / 8); i += kThreads) {
    const int row = i / (D / 8), channel = i % (D / 8) * 8;
    const RowPlace at = place_of(a, s, head, min(first + row, last));
    *reinterpret_cast<uint4*>(shared.queries + row * (D + kPad) + channel) =
        *reinterpret_cast<const uint4*>(static_cast<const __half*>(a.queries) +
                                        (at.row * a.n_heads + at.head) * D + channel);
  }
  const int mine[2] = {min(first + 16 * warp + r, last),
                       min(first + 16 * warp + r + 8, last)};
  float y[D / 8][4] = {};
  float largest[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {0, 0};
  const int position[2] = {position_of(a, s, mine[0]), position_of(a, s, mine[1])};
  const KeyRange by_all = keys_of_all(a, s, first, last);
  for (int from = met.begin / kPageTokens * kPageTokens; from < met.end;
       from += kPageTokens) {
    const auto [layout, at] = queue.front();
    load_page<D, kThreads, true>(layout->k, at, kPageTokens, shared.keys);
    const bool by_channel =
        load_page<D, kThreads, false>(layout->v, at, met.end - from, shared.values);
    __syncthreads();
    queue.pop();
    float c[kPageTokens / 8][4] = {};
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      std::uint32_t q[2][4];
      load_left(shared.queries, D + kPad, 16 * warp, 32 * i, lane, q[0]);
      load_left(shared.queries, D + kPad, 16 * warp, 32 * i + 16, lane, q[1]);
#pragma unroll
      for (int n = 0; n < kPageTokens / 8; ++n) {
        std::uint32_t k[4];
        load_right_deep(shared.keys, D + kPad, 8 * n, 32 * i, lane, k);
        multiply_add(c[n], q[0], k[0], k[1]);
        multiply_add(c[n], q[1], k[2], k[3]);
      }
    }
    if (from < by_all.begin || from + kPageTokens > by_all.end) {
#pragma unroll
      for (int n = 0; n < kPageTokens / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (!is_met(a, s, position[i / 2], from + 8 * n + 2 * t + i % 2))
            c[n][i] = -HUGE_VALF;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float next = largest[h];
#pragma unroll
      for (int n = 0; n < kPageTokens / 8; ++n)
        next = fmaxf(next, fmaxf(c[n][2 * h], c[n][2 * h + 1]));
      next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
      next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
      const float before = largest[h] == next ? 1.0f : exp2f(largest[h] - next);
      largest[h] = next;
      const float base = next == -HUGE_VALF ? 0.0f : next;
      sum[h] *= before;
#pragma unroll
      for (int n = 0; n < kPageTokens / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) c[n][2 * h + j] = exp2f(c[n][2 * h + j] - base);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        y[n][2 * h] *= before;
        y[n][2 * h + 1] *= before;
      }
    }
#pragma unroll
    for (int i = 0; i < kPageTokens / 16; ++i) {
      std::uint32_t p[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* two = &c[2 * i + j / 2][2 * (j % 2)];
        const __half2 both = __floats2half2_rn(two[0], two[1]);
        const float2 seen = __half22float2(both);
        sum[j % 2] += seen.x + seen.y;
        p[j] = bits_of(both);
      }
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        std::uint32_t v[4];
        load_values<D>(shared.values, by_channel, 16 * n, 16 * i, lane, v);
        multiply_add(y[2 * n], p, v[0], v[1]);
        multiply_add(y[2 * n + 1], p, v[2], v[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    if (first + 16 * warp + r + 8 * h > last) continue;
    const RowPlace at = place_of(a, s, head, mine[h]);
    float* to = a.y + (at.row * a.n_heads + at.head) * D;
    const float inverse = 1 / sum[h];
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      *reinterpret_cast<float2*>(to + 8 * n + 2 * t) =
          make_float2(y[n][2 * h] * inverse, y[n][2 * h + 1] * inverse);
  }
}

template <int D>
int stages_of(const PageForm& form) {
  const int bytes = PageQueue<kThreads>::stage_bytes(form);
  // Blocks hide each other's waits better than a second stage does.
  constexpr int kReserved = 1 << 10;  // by the device, of each block's
  const int left =
      shared_memory() / kBlocks<D> - kReserved - static_cast<int>(sizeof(Shared<D>));
  if (left >= bytes) return std::min(left / bytes, 2);
  return stages_beside(sizeof(Shared<D>), bytes);
}

template <int D>
void start(const AttendArgs& args, int most_tokens, const Launcher& launch) {
  AttendArgs copy = args;
  copy.stages = stages_of<D>(args.form);
  void* arguments[] = {&copy};
  const int rows = most_tokens * args.group;
  launch_shared(
      reinterpret_cast<const void*>(&attend_many_rows<D>),
      {static_cast<unsigned>((rows + kRows - 1) / kRows),
       static_cast<unsigned>(args.n_kv_heads),
       static_cast<unsigned>(args.batch.n_sequences), kThreads,
       sizeof(Shared<D>) + copy.stages * PageQueue<kThreads>::stage_bytes(args.form)},
      arguments, launch);
}

}  // namespace

int stages_of_many(const PageForm& form) {
  return with_head_dim(form.coded_layout.head_dim,
                       [&]<int D>() { return stages_of<D>(form); });
}

void attend_many(const AttendArgs& args, int most_tokens, const Launcher& launch) {
  with_head_dim(args.head_dim, [&]<int D>() {
    start<D>(args, most_tokens, launch);
    return 0;
  });
}

}  // namespace optiq::kernels::cuda
