// The Cholesky factor of a large symmetric matrix, at the speed of matrix products.
#pragma once
#include <cstdint>
#include <span>

namespace optiq::quantize {

/// Replaces the lower triangle of A by L, with A = L L^T, and the rest by zeros.
///
/// Shapes    a [n, n], row major; only the lower triangle is read.
/// Returns   false, with `a` spoiled, if A is not positive definite in float32.
/// Cost      n^3 / 3 multiply-adds.
bool cholesky(std::span<float> a, std::int64_t n);

}  // namespace optiq::quantize
