// low_rank on MLX arrays, with gradients.
#pragma once
#include <functional>
#include <optional>
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

/// A product of the base, and what changes it.
///
/// Shapes    y [T, N], the base's product; residual [T, N], added at the end;
///           bias [N] of the base: a gain leaves it alone
/// Requires  the parts cover all T rows, in order.
struct LowRankProduct {
  mx::array y;
  std::vector<LowRankPart> parts;
  std::optional<mx::array> residual{};
  std::optional<mx::array> bias{};
};

/// y + scale (x a^T) b + residual for each row with its own factors; with a gain, that
/// times y and the product. For several products of one x.
///
/// Shapes    x [T, K] -> one [T, N_i] for each product
/// Throws    std::invalid_argument if shapes do not fit
std::vector<mx::array> low_rank(const mx::array& x,
                                const std::vector<LowRankProduct>& products);

}  // namespace optiq::kernels
