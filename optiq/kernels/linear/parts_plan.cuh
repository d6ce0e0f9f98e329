// How a launch of affine_parts_cuda.cuh is cut: K into parts, tiles of W into columns
// of blocks.
#pragma once
#include <algorithm>
#include <cstdint>

#include "optiq/kernels/linear/format_cuda.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/step_sums.cuh"

namespace optiq::kernels::cuda {

inline constexpr int kTileRows = 16;  // of W

/// Shared memory of a part of X before its bytes.
__host__ __device__ constexpr int parts_memory_before_bytes(int tiles, int n_groups) {
  const int rows = 4 * tiles, sums = n_groups * (rows + 1);
  return (rows * static_cast<int>(sizeof(float)) +
          sums * static_cast<int>(sizeof(float2)) + 15) /
         16 * 16;
}

struct PartsPlan {
  int parts;    // of K
  int ranges;   // of each part but the last, which may have fewer: 1, 2, 4 or 8
  int columns;  // of blocks, one for each part, that share the tiles
  int n_tiles;  // pairs of them where gates are joined
  std::size_t shared_bytes;

  /// Of more rows of X there is one block on a processor.
  static __host__ __device__ constexpr int blocks_at_once(int tiles) {
    return tiles <= 2 ? 2 : 1;
  }
};

/// What products of a format and K are cut for.
struct PartsProblem {
  int K, step, group;
  int x_rows;   // in all
  int n_tiles;  // of all products; pairs where gates are joined
  bool glu;
  bool wide;  // scales of float32

  template <class F>
  static PartsProblem of(const FewRowsArgs& a) {
    return of(a, F::step, F::group);
  }
  static PartsProblem of(const FewRowsArgs& a, int step, int group) {
    PartsProblem p{a.K,
                   step,
                   group,
                   a.M * (a.exact ? 2 : 1),
                   0,
                   a.glu,
                   a.scale_type == FloatType::kF32};
    for (int i = 0; i < (a.glu ? 1 : a.n_products); ++i)
      p.n_tiles += (a.products[i].N + kTileRows - 1) / kTileRows;
    return p;
  }
  int n_groups() const { return (K + step - 1) / step * (step / group); }
};

/// The plan for this many tiles of X; no parts if shared memory has no room for them.
inline PartsPlan plan_parts(const PartsProblem& p, int tiles) {
  const Ranges ranges = Ranges::of(p.K, p.step);
  const int at_once = PartsPlan::blocks_at_once(tiles);
  PartsPlan best{};
  double least = 0;
  for (int of_part = 8; of_part > 0; of_part /= 2) {
    if (of_part >= 2 * ranges.n) continue;
    PartsPlan plan{};
    plan.ranges = of_part;
    plan.parts = (ranges.n + of_part - 1) / of_part;
    plan.n_tiles = p.n_tiles;
    const int steps = std::min(ranges.steps, of_part * ranges.length);
    const int groups = steps * (p.step / p.group);
    plan.shared_bytes = parts_memory_before_bytes(tiles, groups) +
                        std::size_t(4) * tiles * groups * 2 * p.group;
    // Blocks that share a processor share its memory, of which each takes 1 KB more.
    if (plan.shared_bytes >
        std::size_t(shared_memory()) / at_once - (at_once - 1) * 1024)
      continue;
    plan.columns = std::clamp(at_once * processors() / plan.parts, 1, p.n_tiles);
    const int of_column = (p.n_tiles + plan.columns - 1) / plan.columns;
    const int of_warp = (of_column + kReadyWarps - 1) / kReadyWarps;
    // The longest warp's steps, half of one more for each tile and as much for leaving
    // its sums; the part of X, which all wait for.
    const double of_tile = steps + (plan.parts > 1 ? 1 : 0.5);
    const double work =
        of_tile * (0.5 * of_warp + 0.5 * of_column / kReadyWarps) * (p.glu ? 2 : 1) +
        0.02 * tiles * steps;
    if (best.parts > 0 && work >= least) continue;
    least = work;
    best = plan;
  }
  return best;
}

/// Tiles of X, four rows each, that a launch takes at once: those of all rows, or what
/// shared memory has room for. One by scales of float32, which are rare.
inline int tiles_at_once(const PartsProblem& p) {
  int tiles = p.wide || p.x_rows <= 4 ? 1 : p.x_rows <= 8 ? 2 : p.x_rows <= 16 ? 4 : 8;
  while (tiles > 1 && plan_parts(p, tiles).parts == 0) tiles /= 2;
  return tiles;
}

/// A launch's scratch: X as it is read, how many parts of each tile are done, their
/// sums.
struct PartsScratch {
  std::size_t arrived, sums, bytes;

  explicit PartsScratch(const PartsProblem& p) {
    const int tiles = tiles_at_once(p);
    const PartsPlan plan = plan_parts(p, tiles);
    const auto rounded = [](std::size_t n) { return (n + 15) / 16 * 16; };
    arrived = rounded(ReadyX::size(p.x_rows, p.n_groups(), p.group));
    sums = rounded(arrived + p.n_tiles * sizeof(std::int32_t));
    bytes = sums;
    if (plan.parts > 1 || p.glu)
      bytes += std::size_t(p.n_tiles) * (p.glu ? 2 : 1) * plan.parts * tiles * 32 *
               sizeof(float2);
  }
};

}  // namespace optiq::kernels::cuda
