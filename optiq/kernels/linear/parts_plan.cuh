// How a launch of affine_parts_cuda.cuh is cut: K into parts, tiles of W into columns
// of blocks.
#pragma once
#include <algorithm>
#include <cstdint>

#include "optiq/kernels/linear/format_cuda.cuh"
#include "optiq/kernels/linear/ready_rows.cuh"
#include "optiq/kernels/linear/step_sums.cuh"

namespace optiq::kernels::cuda {

/// Warps of a block, and blocks of a processor: what a warp has to itself decides.
__host__ __device__ constexpr int parts_warps(XForm form) {
  return form == XForm::kBytes ? 8 : 16;
}
__host__ __device__ constexpr int parts_blocks(XForm form) {
  return 16 / parts_warps(form);
}

inline constexpr int kTileRows = 16;  // of W

/// Sums of a group of `rows` of X: the next group's in other banks.
__host__ __device__ constexpr int padded_sums(int rows) { return rows + 2; }

/// Shared memory before sums and a part of X.
__host__ __device__ constexpr int parts_memory_before_sums(int rows, int n_groups) {
  const int sums = n_groups * padded_sums(rows);
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

  /// Of sums of a warp's ranges that wait for their pair's.
  __host__ __device__ int levels() const { return ranges == 8 ? 3 : ranges / 2; }
};

/// What products of a format and K are cut for.
struct PartsProblem {
  int K, step, group;
  int x_rows;   // in all
  int n_tiles;  // of all products; pairs where gates are joined
  bool glu;
  bool wide;   // scales of float32
  bool exact;  // two rows of X for each of x

  static PartsProblem of(const FewRowsArgs& a, int bits, int group) {
    PartsProblem p{};
    p.K = a.K;
    p.group = group;
    p.x_rows = a.M * (a.exact ? 2 : 1);
    for (int i = 0; i < (a.glu ? 1 : a.n_products); ++i)
      p.n_tiles += (a.products[i].N + kTileRows - 1) / kTileRows;
    p.glu = a.glu;
    p.wide = a.scale_type == FloatType::kF32;
    p.exact = a.exact;
    p.step = values_of_step(bits, true);
    return p;
  }
  XForm form() const {
    return wide || exact || x_rows <= kMostByteRows ? XForm::kBytes : XForm::kHalves;
  }
  int n_groups() const { return (K + step - 1) / step * (step / group); }
};

/// The plan for this many tiles of X; no parts if shared memory has no room for them.
inline PartsPlan plan_parts(const PartsProblem& p, int tiles) {
  const Ranges ranges = Ranges::of(p.K, p.step);
  const int warps = parts_warps(p.form()), at_once = parts_blocks(p.form());
  PartsPlan best{};
  double least = 0;
  for (int of_part = 8; of_part > 0; of_part /= 2) {
    if (of_part >= 2 * ranges.n) continue;
    PartsPlan plan{};
    plan.ranges = of_part;
    plan.parts = (ranges.n + of_part - 1) / of_part;
    plan.n_tiles = p.n_tiles;
    const int steps = std::min(ranges.steps, of_part * ranges.length);
    const int groups = steps * (p.step / p.group),
              rows = rows_of_tile(p.form()) * tiles;
    const std::size_t waiting =
        sizeof(float) * sums_of_tile(p.form()) * tiles * 32 * warps * plan.levels();

    plan.shared_bytes = parts_memory_before_sums(rows, groups) + waiting +

                        std::size_t(2) * rows * groups * p.group;
    // Blocks that share a processor share its memory, of which each takes 1 KB more.
    if (plan.shared_bytes >
        std::size_t(shared_memory()) / at_once - (at_once - 1) * 1024)
      continue;
    plan.columns = std::clamp(at_once * processors() / plan.parts, 1, p.n_tiles);
    const int of_column = (p.n_tiles + plan.columns - 1) / plan.columns;
    const int of_warp = (of_column + warps - 1) / warps;
    // The longest warp's steps, half of one more for each tile and as much for leaving
    // its sums; the part of X, which all wait for.
    const double of_tile = steps + (plan.parts > 1 ? 1 : 0.5);
    const double work =
        of_tile * (0.5 * of_warp + 0.5 * of_column / warps) * (p.glu ? 2 : 1) +
        0.005 * rows * steps;
    if (best.parts > 0 && work >= least) continue;
    least = work;
    best = plan;
  }
  return best;
}

/// How a call goes: tiles of X that a launch takes at once (those of all rows, or what
/// kernels are made for and shared memory has room for; one by scales of float32, which
/// are rare), their plan, and scratch: X as it is read, how many parts of each tile are
/// done, their sums.
struct PartsLayout {
  int tiles;
  PartsPlan plan;
  std::size_t arrived, sums, bytes;  // places in scratch, and its size

  explicit PartsLayout(const PartsProblem& p) {
    const bool by_bytes = p.form() == XForm::kBytes;
    const int fewest = by_bytes ? 1 : 2;
    tiles = by_bytes ? (p.wide || p.x_rows <= 4 ? 1 : 2) : (p.x_rows <= 16 ? 2 : 4);
    for (plan = plan_parts(p, tiles); plan.parts == 0 && tiles > fewest;)
      plan = plan_parts(p, tiles /= 2);
    const auto rounded = [](std::size_t n) { return (n + 15) / 16 * 16; };
    arrived = rounded(ReadyX::size(p.x_rows, p.n_groups(), p.group));
    sums = rounded(arrived + p.n_tiles * sizeof(std::int32_t));
    bytes = sums + std::size_t(p.n_tiles) * (p.glu ? 2 : 1) * plan.parts * tiles * 32 *
                       sums_of_tile(p.form()) * sizeof(float);
  }
};

}  // namespace optiq::kernels::cuda
