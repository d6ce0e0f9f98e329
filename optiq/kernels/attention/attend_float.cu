// Up to eight rows of one kv head over a chunk of pages of 16-bit floats: decoding. A
// block brings the heads in itself, new keys and values into the pages among them, as a
// kernel before it would take longer than they do. A short context is bound by the
// instructions that run once, a long one by the pages' bytes.
//
// Both products have the pages on the left (mma.m16n8k16), as in attend_coded: scores^T
// = K q^T, sixteen keys by the rows; y^T = V^T p^T, sixteen channels by the rows. A
// warp takes sixteen keys at a time, from memory to the registers that meet the tensor
// cores: lane 4 g + t has of the keys g and g + 8 eight channels from 8 t on in every
// 32, and of the values 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 eight from 8 g on in
// every 64. A product sums over its depth, and its rows lie, in any order.
#include <algorithm>

#include "optiq/kernels/attention/bring_in.cuh"
#include "optiq/kernels/attention/finish_cuda.cuh"
#include "optiq/kernels/attention/page_tile_cuda.cuh"

namespace optiq::kernels::cuda {
namespace {

constexpr int kRows = 8;
constexpr int kWarps = 8;
constexpr int kKeys = 16;  // of a warp at a time
static_assert(kPageTokens % kKeys == 0);

template <int D>
struct Shared {
  // A row of queries begins 64 bytes behind the one before, modulo the banks.
  static constexpr int kQueryHalves = (D + 63) / 64 * 64 + 32;

  __half queries[kRows][kQueryHalves];
  const std::byte* pages[kMostFloatChunk / kPageTokens + 1];
  float heads[kWarps][D];  // on their way in
  float y[kWarps][kRows][D + 2];
  float largest[kWarps][kRows], sums[kWarps][kRows];
};

template <int n>
__device__ void make_halves(uint4 (&v)[n]) {
  const auto narrow_pair = [](std::uint32_t& word) {
    word = bits_of(__floats2half2_rn(__uint_as_float(word << 16),
                                     __uint_as_float(word & 0xffff0000u)));
  };
#pragma unroll
  for (uint4& eight : v) {
    narrow_pair(eight.x);
    narrow_pair(eight.y);
    narrow_pair(eight.z);
    narrow_pair(eight.w);
  }
}

// Sixteen keys and their values, as one lane has them.
template <int D>
struct Keys {
  static constexpr int kOfKey = D / 32, kOfValue = (D + 63) / 64;

  uint4 k[2 * kOfKey];    // key g, then key g + 8
  uint4 v[4 * kOfValue];  // by 64 channels, of the four values

  // `rows`: the first of the sixteen.
  __device__ void load_k(const __half* rows, int lane) {
    rows += lane / 4 * D + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2 * kOfKey; ++i)
      k[i] =
          *reinterpret_cast<const uint4*>(rows + i / kOfKey * 8 * D + i % kOfKey * 32);
  }

  // Zeros past the first `count`: what lies there may be NaN.
  __device__ void load_v(const __half* rows, int count, int lane) {
    const int key = lane % 4 * 2, channel = lane / 4 * 8;
    rows += key * D + channel;
#pragma unroll
    for (int i = 0; i < 4 * kOfValue; ++i) {
      const int part = i / 4 * 64;
      if (part + 64 > D && channel + part >= D) break;
      v[i] = *reinterpret_cast<const uint4*>(rows + row_of(i) * D + part);
    }
    if (count >= kKeys) return;
#pragma unroll
    for (int i = 0; i < 4 * kOfValue; ++i)
      if (key + row_of(i) >= count) v[i] = make_uint4(0, 0, 0, 0);
  }

  // q: the row g's, from 8 t on. Of keys g and g + 8, rows 2 t and 2 t + 1.
  __device__ void multiply_by_queries(const __half* q, float (&scores)[4]) const {
    float c[2][4] = {};
#pragma unroll
    for (int i = 0; i < kOfKey; ++i) {
      const uint4 of_row = *reinterpret_cast<const uint4*>(q + 32 * i);
      const uint4 low = k[i], high = k[kOfKey + i];
      multiply_add(c[0], {low.x, high.x, low.y, high.y}, of_row.x, of_row.y);
      multiply_add(c[1], {low.z, high.z, low.w, high.w}, of_row.z, of_row.w);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i] = c[0][i] + c[1][i];
  }

 private:
  __device__ static constexpr int row_of(int i) { return i % 2 + i / 2 % 2 * 8; }
};

// What a lane has of the rows 2 t and 2 t + 1.
template <int D>
struct Sums {
  float largest[2] = {-HUGE_VALF, -HUGE_VALF}, sum[2] = {0, 0};
  float before[2];  // what has become of the sums before
  // Of 64 channels after 64, by 2: those of both rows from channel 8 g + 2 i on.
  float y[4 * Keys<D>::kOfValue][4] = {};

  // Scores to weights, as a right operand has them: of row g.
  __device__ void weigh(const float (&scores)[4], std::uint32_t (&p)[2]) {
    float base[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float most = fmaxf(largest[j], fmaxf(scores[j], scores[2 + j]));
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2)
        most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
      before[j] = largest[j] == most ? 1.0f : exp2f(largest[j] - most);
      largest[j] = most;
      base[j] = most == -HUGE_VALF ? 0.0f : most;
      sum[j] *= before[j];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const __half2 both = __floats2half2_rn(exp2f(scores[2 * h] - base[0]),
                                             exp2f(scores[2 * h + 1] - base[1]));
      const float2 seen = __half22float2(both);
      sum[0] += seen.x;
      sum[1] += seen.y;
      p[h] = transposed(bits_of(both));
    }
  }

  __device__ void add(const Keys<D>& keys, const std::uint32_t (&p)[2]) {
#pragma unroll
    for (int i = 0; i < Keys<D>::kOfValue; ++i) {
      const uint4* v = keys.v + 4 * i;
      const auto pair = [&](std::uint32_t uint4::*word, float(&to)[4]) {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[j] *= before[j % 2];
        const std::uint32_t values[4] = {__byte_perm(v[0].*word, v[1].*word, 0x5410),
                                         __byte_perm(v[0].*word, v[1].*word, 0x7632),
                                         __byte_perm(v[2].*word, v[3].*word, 0x5410),
                                         __byte_perm(v[2].*word, v[3].*word, 0x7632)};
        multiply_add(to, values, p[0], p[1]);
      };
      pair(&uint4::x, y[4 * i]);
      pair(&uint4::y, y[4 * i + 1]);
      pair(&uint4::z, y[4 * i + 2]);
      pair(&uint4::w, y[4 * i + 3]);
    }
  }

  // For the block.
  __device__ void leave_in(Shared<D>& shared, int warp, int count, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2)
        sum[j] += __shfl_xor_sync(~0u, sum[j], lanes);
      if (g == 0) {
        shared.largest[warp][2 * t + j] = largest[j];
        shared.sums[warp][2 * t + j] = sum[j];
      }
      if (2 * t + j >= count) continue;
#pragma unroll
      for (int i = 0; i < 4 * Keys<D>::kOfValue; ++i)
        if (const int channel = i / 4 * 64 + 8 * g + i % 4 * 2; channel < D)
          *reinterpret_cast<float2*>(&shared.y[warp][2 * t + j][channel]) =
              make_float2(y[i][j], y[i][2 + j]);
    }
  }
};

// Puts together what `warps` warps have left of a row, by one warp: its y, of which a
// lane has every 32nd channel, not yet divided by the sum.
template <int D>
struct OfRow {
  float most = -HUGE_VALF, sum = 0, y[D / 32] = {};

  __device__ OfRow(const Shared<D>& shared, int row, int warps, int lane) {
    for (int w = 0; w < warps; ++w) most = fmaxf(most, shared.largest[w][row]);
    for (int w = 0; w < warps; ++w) {
      const float here = shared.largest[w][row];
      const float share = here == most ? 1.0f : exp2f(here - most);
      sum = fmaf(share, shared.sums[w][row], sum);
#pragma unroll
      for (int i = 0; i < D / 32; ++i)
        y[i] = fmaf(share, shared.y[w][row][lane + 32 * i], y[i]);
    }
  }
};

// Grid: chunks, kv heads, tiles of all sequences.
template <int D>
__global__ void __launch_bounds__(32 * kWarps, D > 128 ? 1 : 2)
    attend_float_rows(const __grid_constant__ BringingArgs args) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared<D>*>(memory);
  wait_for_inputs();
  const AttendArgs& a = args.attend;
  const int tile = a.most_tiles == 1 ? 0 : blockIdx.z % a.most_tiles;
  const int sequence = a.most_tiles == 1 ? blockIdx.z : blockIdx.z / a.most_tiles;
  const int head = blockIdx.y;
  const PagedRows s = a.batch.sequences[sequence];
  const int rows = s.tokens * a.group, first = tile * kRows;
  if (s.tokens > kFewTokens || first >= rows) return;
  const int last = min(first + kRows, rows) - 1, count = last - first + 1;
  const int chunk = chunk_keys(a, s.cached + s.tokens);
  const KeyRange met = keys_of(a, s, first, last);
  const int begin = max(met.begin, static_cast<int>(blockIdx.x) * chunk);
  const int end = min(met.end, static_cast<int>(blockIdx.x + 1) * chunk);
  if (begin >= end) return;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4,
            t = lane % 4;
  std::byte* const* table = a.batch.table + s.first_page;
  int from = begin / kKeys * kKeys + warp * kKeys;
  // What the block enters itself is loaded once it is there.
  const int first_new = first_entering(args, s, begin, end);
  Keys<D> keys;
  const bool is_old = from + kKeys <= first_new;

  // All pages are alike, but for where a layer's piece lies in one.
  const KvLayout& layout = a.form.coded_layout;
  const bool wants_halves = layout.k.format.type == FloatType::kBF16;
  const auto find_page = [&](int page) {
    return table[page] + head * layout.head_bytes +
           (page < a.form.float_pages ? a.form.float_offset : a.form.coded_offset);
  };
  const auto load_k = [&](const std::byte* page, int key) {
    __builtin_assume(__isGlobal(page));
    const auto* rows = reinterpret_cast<const __half*>(page + layout.k.codes);
    keys.load_k(rows + key % kPageTokens * D, lane);
  };
  const auto load_v = [&](const std::byte* page, int key) {
    __builtin_assume(__isGlobal(page));
    const auto* rows = reinterpret_cast<const __half*>(page + layout.v.codes);
    keys.load_v(rows + key % kPageTokens * D, end - key, lane);
  };
  const auto load_first = [&] {
    const std::byte* page = find_page(from / kPageTokens);
    load_k(page, from);
    load_v(page, from);
  };
  if (is_old && from < end) load_first();
  // Where the chunk's pages are, for the loop.
  const int first_page = begin / kPageTokens;
  for (int i = threadIdx.x; first_page + i <= (end - 1) / kPageTokens; i += 32 * kWarps)
    shared.pages[i] = find_page(first_page + i);

  bring_in<D, kWarps, true>(args, s, head, first, count, first_new, end,
                            shared.heads[warp], shared.queries[0],
                            Shared<D>::kQueryHalves);
  __syncthreads();
  if (!is_old && from < end) load_first();

  const int position[2] = {position_of(a, s, min(first + 2 * t, last)),
                           position_of(a, s, min(first + 2 * t + 1, last))};
  const int warps = min(kWarps, (end - from + warp * kKeys + kKeys - 1) / kKeys);
  Sums<D> sums;
#pragma unroll 1
  while (from < end) {
    const int next = from + kWarps * kKeys;
    const auto* next_page = shared.pages + (next / kPageTokens - first_page);
    float scores[4];
    if (wants_halves) make_halves(keys.k);
    keys.multiply_by_queries(&shared.queries[g][8 * t], scores);
    if (next < end) load_k(*next_page, next);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!is_met(a, s, position[i % 2], from + g + i / 2 * 8)) scores[i] = -HUGE_VALF;
    std::uint32_t p[2];
    sums.weigh(scores, p);
    if (wants_halves) make_halves(keys.v);
    sums.add(keys, p);
    if (next < end) load_v(*next_page, next);
    from = next;
  }
  if (warp < warps) sums.leave_in(shared, warp, count, lane);
  __syncthreads();

  const bool is_all = a.arrivals && chunks_of(a, s, first, last) == 1;
  if (warp < count) {
    const OfRow<D> row(shared, warp, warps, lane);
    float* to = is_all ? shared.heads[warp]
                       : partial_of(a, sequence, tile, head, blockIdx.x) +
                             static_cast<std::int64_t>(warp) * (D + 2);
    const float factor = is_all ? 1 / row.sum : 1.0f;
#pragma unroll
    for (int i = 0; i < D / 32; ++i) to[lane + 32 * i] = row.y[i] * factor;
    if (is_all) {
      __syncwarp();
      const RowPlace place = place_of(a, s, head, first + warp);
      leave(a, place.row, place.head, D, to, lane);
    } else if (lane == 0) {
      to[D] = row.most, to[D + 1] = row.sum;
    }
  }
  if (is_all) return;
  static_assert(sizeof(shared.y) >= kWarps * (D + 32) * sizeof(float));
  finish_if_last<kWarps, D>(a, s, sequence, tile, head, first, last,
                            &shared.y[0][0][0]);
}

template <int D>
void start(const AttendArgs& args, const EnterArgs& enter, const Launcher& launch) {
  BringingArgs both{args, enter};
  void* arguments[] = {&both};
  launch_shared(
      reinterpret_cast<const void*>(&attend_float_rows<D>),
      {static_cast<unsigned>(args.most_chunks), static_cast<unsigned>(args.n_kv_heads),
       static_cast<unsigned>(args.most_tiles * args.batch.n_sequences), 32 * kWarps,
       sizeof(Shared<D>)},
      arguments, launch);
}

}  // namespace

bool has_float_pages(const PageForm& form) {
  const KvFormat& k = form.coded_layout.k.format;
  const auto is_alike = [&](const KvSide& side) {
    return side.format.kind == KvKind::kFloat && side.format.type == k.type;
  };
  return k.kind == KvKind::kFloat && k.type != FloatType::kF32 &&
         is_alike(form.coded_layout.v) &&
         (form.float_pages == 0 ||
          (is_alike(form.float_layout.k) && is_alike(form.float_layout.v)));
}

void attend_float(const AttendArgs& args, const EnterArgs& enter,
                  const Launcher& launch) {
  with_head_dim(args.head_dim, [&]<int D>() {
    start<D>(args, enter, launch);
    return 0;
  });
}

}  // namespace optiq::kernels::cuda
