// What the parts of attention on a CUDA device share: a call as kernels see it, which
// keys a row meets, and the sums that blocks leave for each other.
//
// Rows of a sequence and kv head are (token, head of the group), the head running
// fastest. A context is cut into chunks of whole pages; a block that has taken in a
// chunk leaves, for each of its rows, the largest score m, the sum l of exp2(score - m)
// and the unnormalized y, and the last block of a tile or finish_rows puts the chunks
// together (finish_cuda.cuh).
#pragma once
#include <cstdint>

#include "optiq/kernels/attention/attention_cuda.h"
#include "optiq/kernels/kv_page/enter_heads.cuh"

namespace optiq::kernels::cuda {

/// Who takes sequences of few tokens (attend_exact: all).
enum class Way { kExact, kFew, kFloat, kCoded };

struct AttendArgs {
  PageForm form;
  PagedBatch batch;
  // Ready, [rows, n_heads, D]; null: blocks bring in what they need.
  const void* queries;
  HeadRows gate;
  float* y;        // [rows, n_heads, D]
  float* partial;  // [sequence, tile, kv head, chunk, tile_rows, D + 2]
  // [sequence, tile, kv head] of blocks, zero before and after; null: finish_rows ends
  // rows.
  unsigned* arrivals;
  int n_heads, n_kv_heads, head_dim;
  int group;  // heads to a kv head
  int window;
  bool causal;
  Way way;
  int tile_rows;   // rows of a tile of the few
  int most_tiles;  // of a sequence, among the few
  int most_chunks;
  int stages;  // of a page queue
};

/// Chunks of a context behind pages of floats, but for one so long that they would have
/// more keys than this.
inline constexpr int kMostFloatChunks = 32, kMostFloatChunk = 8 << 10;

/// Chunks of a context behind coded pages, at most: those of eight kv heads are what
/// 132 processors take at once, three blocks each.
inline constexpr int kMostCodedChunks = 43;

/// Keys of a chunk, of which a block takes one page after another, or (attend_coded)
/// each of its warps one. A longer context has longer ones, so that there are not too
/// many.
__host__ __device__ constexpr int chunk_keys(Way way, int keys) {
  if (way == Way::kFloat) {
    int chunk = 128;
    while (chunk < kMostFloatChunk && kMostFloatChunks * chunk < keys) chunk *= 2;
    return chunk;
  }
  if (way == Way::kCoded) {
    constexpr int kStep = 256;  // a page for each warp
    return kStep * ((keys + kMostCodedChunks * kStep - 1) / (kMostCodedChunks * kStep));
  }
  return keys <= (8 << 10) ? 256 : keys <= (128 << 10) ? 1024 : 8192;
}
/// The contexts behind which chunks are longer.
inline constexpr int kChunkSteps[] = {4 << 10, 8 << 10, 128 << 10};

__device__ inline int chunk_keys(const AttendArgs& a, int keys) {
  return chunk_keys(a.way, keys);
}

/// Which of a sequence's tokens a row is of.
__device__ inline int token_of(const AttendArgs& a, const PagedRows& s, int row) {
  return s.tokens == 1 ? 0 : row / a.group;
}

/// The place of a row's token in its sequence.
__device__ inline int position_of(const AttendArgs& a, const PagedRows& s, int row) {
  return s.cached + token_of(a, s, row);
}

/// Keys [begin, end) that the rows from `first` to `last` of a sequence meet.
struct KeyRange {
  int begin, end;
};
__device__ inline KeyRange keys_of(const AttendArgs& a, const PagedRows& s, int first,
                                   int last) {
  const int keys = s.cached + s.tokens;
  return {a.window > 0 ? max(0, position_of(a, s, first) - a.window + 1) : 0,
          a.causal ? min(keys, position_of(a, s, last) + 1) : keys};
}

/// Those that all of these rows meet.
__device__ inline KeyRange keys_of_all(const AttendArgs& a, const PagedRows& s,
                                       int first, int last) {
  return {a.window > 0 ? position_of(a, s, last) - a.window + 1 : 0,
          a.causal ? position_of(a, s, first) + 1 : s.cached + s.tokens};
}

/// True if a row at this position meets the key.
__device__ inline bool is_met(const AttendArgs& a, const PagedRows& s, int position,
                              int key) {
  return key < s.cached + s.tokens && (!a.causal || key <= position) &&
         (a.window == 0 || key > position - a.window);
}

/// Where a chunk's sums of a tile lie.
__device__ inline float* partial_of(const AttendArgs& a, int sequence, int tile,
                                    int head, int chunk) {
  const std::int64_t block =
      ((static_cast<std::int64_t>(sequence) * a.most_tiles + tile) * a.n_kv_heads +
       head) *
          a.most_chunks +
      chunk;
  return a.partial + block * a.tile_rows * (a.head_dim + 2);
}

/// Where a row of a sequence and kv head lies in q, y, and the gate.
struct RowPlace {
  std::int64_t row;
  int head;
};
__device__ inline RowPlace place_of(const AttendArgs& a, const PagedRows& s, int head,
                                    int row) {
  const int token = token_of(a, s, row);
  return {s.row + token, head * a.group + row - token * a.group};
}

/// The ways; each skips the sequences that are another's.
void attend_few(const AttendArgs& args, const Launcher& launch);
void attend_coded(const AttendArgs& args, const EnterArgs& enter,
                  const Launcher& launch);
void attend_float(const AttendArgs& args, const EnterArgs& enter,
                  const Launcher& launch);
void attend_many(const AttendArgs& args, int most_tokens, const Launcher& launch);
void attend_exact(const AttendArgs& args, const Launcher& launch);

/// True for what attend_coded, or (floats of 16 bits) attend_float, takes in
/// attend_few's place.
bool has_coded_pages(const PageForm& form);
bool has_float_pages(const PageForm& form);

/// Stages of the page queues of attend_few and attend_many: 0 where they do not take
/// the head dim, or the device has no shared memory for them.
int stages_of_few(const PageForm& form);
int stages_of_many(const PageForm& form);

/// Stages of so many bytes, 2 at most, that a block has shared memory for beside these.
int stages_beside(std::size_t shared_bytes, int stage_bytes);

/// f<D>() for the head dims that kernels of tiles are made for; otherwise 0.
template <class Function>
int with_head_dim(int head_dim, Function&& f) {
  switch (head_dim) {
    case 64:
      return f.template operator()<64>();
    case 96:
      return f.template operator()<96>();
    case 128:
      return f.template operator()<128>();
    case 256:
      return f.template operator()<256>();
    default:
      return 0;
  }
}

/// Starts a kernel with more shared memory than a launch has by itself.
void launch_shared(const void* kernel, const LaunchShape& shape, void** arguments,
                   const Launcher& launch);

}  // namespace optiq::kernels::cuda
