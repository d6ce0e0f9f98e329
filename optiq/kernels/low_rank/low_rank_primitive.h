// low_rank on MLX arrays, with gradients.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"

namespace optiq::kernels {

namespace mx = mlx::core;

/// One adapter at one linear module of K inputs and N outputs.
///
/// Shapes    a [rank, K]; b [rank, N], any float type; gain [N] float32, of DoRA
struct LowRank {
  mx::array a;
  mx::array b;
  float scale = 1;
  std::optional<mx::array> gain{};

  /// What the two matrices read in place of x, where it is something else: training
  /// drops some of it.
  std::function<mx::array(const mx::array& x)> input{};

  int rank() const { return a.shape(0); }
};

/// Consecutive rows, and what changes them; null: nothing.
struct LowRankPart {
  int rows = 0;
  const LowRank* factors = nullptr;
};

struct LowRankOptions {
  std::optional<mx::array> residual;  // added at the end, [T, N]
  std::optional<mx::array> bias;      // of the base, [N]: a gain leaves it alone
};

/// y + scale (x a^T) b + residual for each row with its own factors; with a gain, that
/// times y and the product.
///
/// Shapes    x [T, K]; y [T, N], the base's product -> [T, N]
/// Requires  the parts cover all rows, in order.
mx::array low_rank(const mx::array& x, const mx::array& y,
                   std::span<const LowRankPart> parts,
                   const LowRankOptions& options = {});

}  // namespace optiq::kernels
