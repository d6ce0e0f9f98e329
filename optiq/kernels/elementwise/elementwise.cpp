#include "optiq/kernels/elementwise/elementwise.h"

#include <cmath>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void scaled_sum_rows(const float* a, const float* b, float scale,
                                        float* y, std::int64_t n))
OPTIQ_DECLARE_SIMD(void softcap_rows(const float* x, float cap, float* y,
                                     std::int64_t n))

namespace {
// Values that outweigh the claim of a chunk.
constexpr std::size_t kGrain = 16384;
}  // namespace

void scaled_sum(const float* a, const float* b, float scale, float* y, std::int64_t n) {
  const auto rows = OPTIQ_CHOOSE(scaled_sum_rows);
  parallel_ranges(static_cast<std::size_t>(n), kGrain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(a + begin, b ? b + begin : nullptr, scale, y + begin,
                         static_cast<std::int64_t>(end - begin));
                  });
}

void gated_sum(const float* a, const float* b, const float* gate, float* y,
               std::int64_t rows, std::int64_t n) {
  parallel_ranges(static_cast<std::size_t>(rows),
                  kGrain / static_cast<std::size_t>(n + 1) + 1,
                  [&](std::size_t begin, std::size_t end) {
                    for (auto row = static_cast<std::int64_t>(begin);
                         row < static_cast<std::int64_t>(end); ++row) {
                      const float weight = 1 / (1 + std::exp(-gate[row]));
                      for (std::int64_t i = row * n; i < (row + 1) * n; ++i)
                        y[i] = a[i] + weight * b[i];
                    }
                  });
}

void softcap(const float* x, float cap, float* y, std::int64_t n) {
  const auto rows = OPTIQ_CHOOSE(softcap_rows);
  parallel_ranges(
      static_cast<std::size_t>(n), kGrain, [&](std::size_t begin, std::size_t end) {
        rows(x + begin, cap, y + begin, static_cast<std::int64_t>(end - begin));
      });
}

}  // namespace optiq::kernels
