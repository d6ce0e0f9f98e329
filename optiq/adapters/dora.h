// The magnitudes of DoRA.
#pragma once
#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/kernels/low_rank/low_rank_primitive.h"

namespace optiq::adapters {

namespace mx = mlx::core;

/// Squared lengths of the weight's rows. Shapes  -> [N] float32
mx::array squared_row_norms(const kernels::LinearWeight& w);

/// Lengths of the rows of W + scale b^T a.
///
/// Shapes    squares [N], of W's rows -> [N] float32
/// Cost      a product of `rank` rows with W; W + b^T a is never formed:
///           |w + s u|^2 = |w|^2 + 2 s <w, u> + s^2 |u|^2,  u = b_n a.
mx::array adapted_row_norms(const kernels::LinearWeight& w,
                            const kernels::LowRank& factors, const mx::array& squares);

/// magnitude / |W + scale b^T a|, row by row, evaluated.
///
/// Shapes    magnitude [N] -> [N] float32
/// Source    Liu et al. 2024, "DoRA", eq. 5
mx::array dora_gain(const kernels::LinearWeight& w, const kernels::LowRank& factors,
                    const mx::array& magnitude);

}  // namespace optiq::adapters
