// Up to 16 rows of one kv head and a chunk of the context, over pages of different
// kinds (attend_float and attend_coded take those of one). A block decodes a page into
// shared memory; of the scores each of its eight warps takes eight keys, of the sums an
// eighth of the channels.
#include <algorithm>

#include "optiq/kernels/attention/finish_cuda.cuh"

#include "optiq/kernels/attention/page_tile_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16;

template <int D>
struct Shared {
  __half keys[kKeyHalves<D>];
  __half values[kValueHalves<D>];
  __half queries[kRows * (D + kPad)];
  __half weights[kRows * kByToken];
  float largest[kWarps][kRows];
  float sums[kWarps][kRows];
  // Then the page queue's memory.
};
static_assert(sizeof(Shared<64>) % 16 == 0);

// Grid: chunks, tiles of all kv heads, sequences.
template <int D>
__global__ void __launch_bounds__(kThreads, D > 128 ? 2 : 3)
    attend_few_rows(const __grid_constant__ AttendArgs a) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<D>*>(memory);
  wait_for_inputs();
  const PagedRows s = a.batch.sequences[blockIdx.z];
  const int tile = blockIdx.y / a.n_kv_heads, head = blockIdx.y % a.n_kv_heads;
  const int rows = s.tokens * a.group, first = tile * kRows;
  if (s.tokens > kFewTokens || first >= rows) return;
  const int last = min(first + kRows, rows) - 1,
            chunk = chunk_keys(a, s.cached + s.tokens);
  const KeyRange met = keys_of(a, s, first, last);
  const int begin = max(met.begin, static_cast<int>(blockIdx.x) * chunk);
  const int end = min(met.end, static_cast<int>(blockIdx.x + 1) * chunk);
  if (begin >= end) return;

  PageQueue<kThreads> queue(a.form, a.batch.table + s.first_page, head,
                            begin / kPageTokens, (end + kPageTokens - 1) / kPageTokens,
                            a.stages,
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
  __syncthreads();
  std::uint32_t q[D / 16][4];
#pragma unroll
  for (int i = 0; i < D / 16; ++i)
    load_left(shared.queries, D + kPad, 0, 16 * i, lane, q[i]);

  constexpr int kPairs = D / 16;                         // of tiles of channels
  constexpr int kMine = (kPairs + kWarps - 1) / kWarps;  // of them a warp's
  float y[kMine][2][4] = {};
  float largest[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {0, 0};
  const int position[2] = {position_of(a, s, min(first + r, last)),
                           position_of(a, s, min(first + r + 8, last))};
  const KeyRange by_all = keys_of_all(a, s, first, last);
  for (int from = begin / kPageTokens * kPageTokens; from < end; from += kPageTokens) {
    const auto [layout, at] = queue.front();
    load_page<D, kThreads, true>(layout->k, at, kPageTokens, shared.keys);
    const bool by_channel =
        load_page<D, kThreads, false>(layout->v, at, end - from, shared.values);
    __syncthreads();
    queue.pop();

    float c[2][4] = {};
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
      std::uint32_t k[4];
      load_right_deep(shared.keys, D + kPad, 8 * warp, 32 * i, lane, k);
      multiply_add(c[0], q[2 * i], k[0], k[1]);
      multiply_add(c[1], q[2 * i + 1], k[2], k[3]);
    }
    float score[4], most[2] = {-HUGE_VALF, -HUGE_VALF};
    const bool all = from >= by_all.begin && from + kPageTokens <= by_all.end;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = from + 8 * warp + 2 * t + i % 2;
      const bool is = all || is_met(a, s, position[i / 2], key);
      score[i] = is ? c[0][i] + c[1][i] : -HUGE_VALF;
      most[i / 2] = fmaxf(most[i / 2], score[i]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 1));
      most[h] = fmaxf(most[h], __shfl_xor_sync(~0u, most[h], 2));
      if (t == 0) shared.largest[warp][r + 8 * h] = most[h];
    }
    __syncthreads();
    float before_[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float next = largest[h];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) next = fmaxf(next, shared.largest[w][r + 8 * h]);
      before_[h] = largest[h] == next ? 1.0f : exp2f(largest[h] - next);
      largest[h] = next;
      const float base = next == -HUGE_VALF ? 0.0f : next;
      const __half2 p =
          __floats2half2_rn(exp2f(score[2 * h] - base), exp2f(score[2 * h + 1] - base));
      *reinterpret_cast<__half2*>(shared.weights + (r + 8 * h) * kByToken + 8 * warp +
                                  2 * t) = p;
      const float2 both = __half22float2(p);
      sum[h] = fmaf(sum[h], before_[h], both.x + both.y);
    }
    __syncthreads();
    std::uint32_t p[kPageTokens / 16][4];
#pragma unroll
    for (int i = 0; i < kPageTokens / 16; ++i)
      load_left(shared.weights, kByToken, 0, 16 * i, lane, p[i]);
#pragma unroll
    for (int mine = 0; mine < kMine; ++mine) {
      const int pair = warp + mine * kWarps;
      if (pair >= kPairs) break;
#pragma unroll
      for (int i = 0; i < 8; ++i) y[mine][i / 4][i % 4] *= before_[i / 2 % 2];
#pragma unroll
      for (int i = 0; i < kPageTokens / 16; ++i) {
        std::uint32_t v[4];
        load_values<D>(shared.values, by_channel, 16 * pair, 16 * i, lane, v);
        multiply_add(y[mine][0], p[i], v[0], v[1]);
        multiply_add(y[mine][1], p[i], v[2], v[3]);
      }
    }
  }
  __syncthreads();

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    if (t == 0) shared.sums[warp][r + 8 * h] = sum[h];
  }
  __syncthreads();
  const int count = last - first + 1;
  // Each pair of channels that a lane has of a row.
  const auto for_pairs = [&](auto&& f) {
#pragma unroll
    for (int mine = 0; mine < kMine; ++mine) {
      const int pair = warp + mine * kWarps;
      if (pair >= kPairs) break;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          if (r + 8 * h < count)
            f(r + 8 * h, 16 * pair + 8 * n + 2 * t,
              make_float2(y[mine][n][2 * h], y[mine][n][2 * h + 1]));
    }
  };
  if (a.arrivals && chunks_of(a, s, first, last) == 1) {
    // All there is: nothing to put together. As put_together does it, to the bit.
    auto* all = reinterpret_cast<float*>(shared.keys);
    static_assert(sizeof(shared.keys) >= kRows * D * sizeof(float));
    for_pairs([&](int row, int channel, float2 v) {
      float l = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) l += shared.sums[w][row];
      const float of_sum = 1 / l;
      all[row * D + channel] = v.x * of_sum;
      all[row * D + channel + 1] = v.y * of_sum;
    });
    __syncthreads();
    for (int row = warp; row < count; row += kWarps) {
      const RowPlace place = place_of(a, s, head, first + row);
      leave(a, place.row, place.head, D, all + row * D, lane);
    }
    return;
  }
  float* to = partial_of(a, blockIdx.z, tile, head, blockIdx.x);
  if (warp == 0 && t == 0)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = r + 8 * h;
      if (row >= count) continue;
      float all = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) all += shared.sums[w][row];
      to[row * (D + 2) + D] = largest[h];
      to[row * (D + 2) + D + 1] = all;
    }
  for_pairs([&](int row, int channel, float2 v) {
    *reinterpret_cast<float2*>(to + row * (D + 2) + channel) = v;
  });
  static_assert(sizeof(shared.keys) >= kWarps * (D + 32) * sizeof(float));
  finish_if_last<kWarps, D>(a, s, blockIdx.z, tile, head, first, last,
                            reinterpret_cast<float*>(shared.keys));
}

template <int D>
int stages_of(const PageForm& form) {
  return stages_beside(sizeof(Shared<D>), PageQueue<kThreads>::stage_bytes(form));
}

template <int D>
void start(const AttendArgs& args, const Launcher& launch) {
  AttendArgs copy = args;
  copy.stages = stages_of<D>(args.form);
  void* arguments[] = {&copy};
  launch_shared(
      reinterpret_cast<const void*>(&attend_few_rows<D>),
      {static_cast<unsigned>(args.most_chunks),
       static_cast<unsigned>(args.most_tiles * args.n_kv_heads),
       static_cast<unsigned>(args.batch.n_sequences), kThreads,
       sizeof(Shared<D>) + copy.stages * PageQueue<kThreads>::stage_bytes(args.form)},
      arguments, launch);
}

}  // namespace

int stages_of_few(const PageForm& form) {
  return with_head_dim(form.coded_layout.head_dim,
                       [&]<int D>() { return stages_of<D>(form); });
}

void attend_few(const AttendArgs& args, const Launcher& launch) {
  with_head_dim(args.head_dim, [&]<int D>() {
    start<D>(args, launch);
    return 0;
  });
}

}  // namespace optiq::kernels::cuda
