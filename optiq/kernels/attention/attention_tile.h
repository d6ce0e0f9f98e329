// How attention is cut: the piece of work that one thread does at a time.
//
// Keys are cut into chunks of kChunkKeys at fixed places of the context, chunks into
// blocks of kBlockKeys. A row walks the blocks of a chunk with an online softmax that
// starts afresh, and the results of the chunks are merged in their order. That is so
// whether one thread walks all chunks (prefill) or each chunk is a piece of its own
// (decode), and within a block a row's sums run in the same order in both. So the
// cutting leaves no trace in the result.
#pragma once
#include "optiq/kernels/attention/attention.h"

namespace optiq::kernels {

constexpr int kBlockKeys = 64;
constexpr int kChunkKeys = 512;

/// Rows that share keys without a copy of them: decode.
constexpr int kFewRows = 12;

/// Rows that share a walk over keys: pairs of (token, query head of the group), token
/// major; row r is token r / group, head r % group.
struct AttentionTile {
  int segment;
  std::int64_t first_token;  // row of q where the segment begins
  int kv_head;
  int row_begin, row_end;
  int chunk_begin, chunk_end;
  float* partial;  // null: the tile has all chunks, and writes y
};

/// Rows of a tile, for a head dimension: what keeps its accumulators in the L2 cache.
constexpr int max_tile_rows(int head_dim) {
  return head_dim <= 128 ? 96 : head_dim <= 256 ? 48 : 24;
}

/// Values of a row, with room for the lanes of the widest vector.
constexpr int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }

/// Floats of a partial result: for each row the largest score, the sum of weights, and
/// padded_dim sums of weighted values.
constexpr std::int64_t partial_size(int rows, int head_dim) {
  return static_cast<std::int64_t>(rows) * (padded_dim(head_dim) + 2);
}

/// Floats that attention_tile needs to work in: rows, two panels of a block with room
/// for whole tiles of codes, scores; rows rounded to int8 with three numbers for each
/// group of 32 values, and weights rounded; 16 of alignment for each.
constexpr std::int64_t scratch_size(int head_dim) {
  const std::int64_t padded = padded_dim(head_dim) + 16, rows = max_tile_rows(head_dim);
  const std::int64_t groups = (padded + 31) / 32;
  return padded * (3 * rows + 2 * kBlockKeys) + (kBlockKeys + 5) * rows +
         kBlockKeys * kFewRows + rows * (padded / 4 + 3 * groups + kBlockKeys / 4 + 3) +
         20 * 16;
}

/// The chunks that rows [row_begin, row_end) of a segment see.
struct ChunkRange {
  int begin, end;
};
inline ChunkRange visible_chunks(const AttentionArgs& args,
                                 const AttentionSegment& segment, int row_begin,
                                 int row_end) {
  const int group = args.n_heads / args.n_kv_heads;
  const int first = segment.cached + row_begin / group;
  const int last = segment.cached + (row_end - 1) / group;
  const int begin =
      args.window > 0 && first >= args.window ? first - args.window + 1 : 0;
  const int end = args.causal ? last + 1 : segment.cached + segment.tokens;
  return {begin / kChunkKeys, (end + kChunkKeys - 1) / kChunkKeys};
}

namespace ref {
/// The definition, in double precision.
void attention_tile(const AttentionArgs& args, const AttentionTile& tile,
                    float* scratch);
/// Merges the partial results of a tile's chunks, in order, and writes y.
void attention_merge(const AttentionArgs& args, const AttentionTile& tile,
                     const float* partials, int n_partials);
}  // namespace ref

}  // namespace optiq::kernels
