// Right-looking by blocks: a diagonal block in double, the panel below it by a
// triangular solve, the rest by a symmetric product, which holds nearly all the work.
#include "optiq/quantize/cholesky.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "optiq/quantize/blas.h"

namespace optiq::quantize {
namespace {

constexpr std::int64_t kBlock = 128;

bool factor_diagonal(float* a, std::int64_t n, std::int64_t stride,
                     std::vector<double>& block) {
  block.resize(static_cast<std::size_t>(n * n));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double sum = a[i * stride + j];
      for (std::int64_t k = 0; k < j; ++k) sum -= block[i * n + k] * block[j * n + k];
      if (i != j) {
        block[i * n + j] = sum / block[j * n + j];
      } else if (sum > 0 && std::isfinite(sum)) {
        block[i * n + i] = std::sqrt(sum);
      } else {
        return false;
      }
      a[i * stride + j] = static_cast<float>(block[i * n + j]);
    }
  return true;
}

}  // namespace

bool cholesky(std::span<float> a, std::int64_t n) {
  if (n < 0 || a.size() != static_cast<std::uint64_t>(n * n))
    throw std::invalid_argument(
        fmt::format("[cholesky] {} values are not [{}, {}]", a.size(), n, n));
  std::vector<double> block;
  const int stride = static_cast<int>(n);
  for (std::int64_t k = 0; k < n; k += kBlock) {
    const std::int64_t size = std::min(kBlock, n - k), rest = n - k - size;
    float* diagonal = a.data() + k * n + k;
    if (!factor_diagonal(diagonal, size, n, block)) return false;
    if (rest == 0) break;
    float* panel = diagonal + size * n;
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                static_cast<int>(rest), static_cast<int>(size), 1, diagonal, stride,
                panel, stride);
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, static_cast<int>(rest),
                static_cast<int>(size), -1, panel, stride, 1, panel + size, stride);
  }
  for (std::int64_t i = 0; i < n; ++i)
    std::fill(a.data() + i * n + i + 1, a.data() + (i + 1) * n, 0.0f);
  return true;
}

}  // namespace optiq::quantize
