#include "optiq/kernels/attention/attention.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "optiq/base/parallel.h"
#include "optiq/kernels/attention/attention_tile.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void attention_tile(const AttentionArgs& args,
                                       const AttentionTile& tile, float* scratch))
OPTIQ_DECLARE_SIMD(void attention_merge(const AttentionArgs& args,
                                        const AttentionTile& tile,
                                        const float* partials, int n_partials))

namespace {

// Memory that a thread keeps between calls.
float* room_for(std::vector<float>& memory, std::int64_t n) {
  if (static_cast<std::int64_t>(memory.size()) < n)
    memory.resize(static_cast<std::size_t>(n));
  return memory.data();
}

// A tile whose chunks are pieces of their own, and where their results lie.
struct SplitTile {
  AttentionTile tile;
  std::int64_t partials;
};

struct Plan {
  std::vector<AttentionTile> pieces;
  std::vector<SplitTile> split;
  std::int64_t partial_floats = 0;
};

// The pieces of one tile: itself, or one for each chunk.
void add_tile(const AttentionArgs& args, AttentionTile tile, bool may_split,
              Plan& plan) {
  if (!may_split || tile.chunk_end - tile.chunk_begin <= 1) {
    plan.pieces.push_back(tile);
    return;
  }
  plan.split.push_back({tile, plan.partial_floats});
  for (int chunk = tile.chunk_begin; chunk < tile.chunk_end; ++chunk) {
    AttentionTile piece = tile;
    piece.chunk_begin = chunk;
    piece.chunk_end = chunk + 1;
    plan.pieces.push_back(piece);
  }
  plan.partial_floats += (tile.chunk_end - tile.chunk_begin) *
                         partial_size(tile.row_end - tile.row_begin, args.head_dim);
}

Plan make_plan(const AttentionArgs& args) {
  Plan plan;
  const int group = args.n_heads / args.n_kv_heads;
  const int max_rows = max_tile_rows(args.head_dim);
  std::int64_t first_token = 0;
  for (int i = 0; i < args.n_segments; ++i) {
    const AttentionSegment& segment = args.segments[i];
    const int rows = segment.tokens * group;
    // Equal tiles, so that the last one is not a sliver.
    const int n_tiles = (rows + max_rows - 1) / max_rows;
    for (int kv_head = 0; kv_head < args.n_kv_heads; ++kv_head)
      // The last rows see the most keys: they go first.
      for (int t = n_tiles - 1; t >= 0; --t) {
        const auto cut = [&](int at) {
          return static_cast<int>(static_cast<std::int64_t>(rows) * at / n_tiles);
        };
        AttentionTile tile{i, first_token, kv_head, cut(t), cut(t + 1), 0, 0, nullptr};
        const ChunkRange chunks =
            visible_chunks(args, segment, tile.row_begin, tile.row_end);
        tile.chunk_begin = chunks.begin;
        tile.chunk_end = chunks.end;
        add_tile(args, tile, n_tiles == 1, plan);
      }
    first_token += segment.tokens;
  }
  return plan;
}

}  // namespace

void attention(const AttentionArgs& args) {
  thread_local std::vector<float> partial_memory;
  Plan plan = make_plan(args);
  float* partials = room_for(partial_memory, plan.partial_floats);
  std::int64_t used = 0;
  for (AttentionTile& piece : plan.pieces) {
    const ChunkRange all = visible_chunks(args, args.segments[piece.segment],
                                          piece.row_begin, piece.row_end);
    if (all.begin == piece.chunk_begin && all.end == piece.chunk_end) continue;
    piece.partial = partials + used;
    used += partial_size(piece.row_end - piece.row_begin, args.head_dim);
  }
  const auto run_tile = OPTIQ_CHOOSE(attention_tile);
  parallel_for(plan.pieces.size(), [&](std::size_t i) {
    thread_local std::vector<float> scratch;
    float* room = room_for(scratch, scratch_size(args.head_dim) + 16);
    const auto past = reinterpret_cast<std::uintptr_t>(room) % 64 / sizeof(float);
    run_tile(args, plan.pieces[i], room + (past ? 16 - past : 0));  // aligned to 64
  });
  const auto merge = OPTIQ_CHOOSE(attention_merge);
  parallel_for(plan.split.size(), [&](std::size_t i) {
    const SplitTile& split = plan.split[i];
    merge(args, split.tile, partials + split.partials,
          split.tile.chunk_end - split.tile.chunk_begin);
  });
}

}  // namespace optiq::kernels
