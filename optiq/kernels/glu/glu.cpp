#include "optiq/kernels/glu/glu.h"

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void glu_rows(GluGate gate, const float* g, const float* u, float* y,
                                 std::int64_t n))
OPTIQ_DECLARE_SIMD(void glu_backward_rows(GluGate gate, const float* g, const float* u,
                                          const float* dy, float* dg, float* du,
                                          std::int64_t n))
namespace {
// Values that outweigh the claim of a chunk.
constexpr std::size_t kGrain = 8192;
}  // namespace

void glu_product_here(GluGate gate, const float* g, const float* u, float* y,
                      std::int64_t n) {
  OPTIQ_CHOOSE(glu_rows)(gate, g, u, y, n);
}

void glu_product(GluGate gate, const float* g, const float* u, float* y,
                 std::int64_t n) {
  const auto rows = OPTIQ_CHOOSE(glu_rows);
  parallel_ranges(static_cast<std::size_t>(n), kGrain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(gate, g + begin, u + begin, y + begin,
                         static_cast<std::int64_t>(end - begin));
                  });
}

void glu_product_backward(GluGate gate, const float* g, const float* u, const float* dy,
                          float* dg, float* du, std::int64_t n) {
  const auto rows = OPTIQ_CHOOSE(glu_backward_rows);
  parallel_ranges(static_cast<std::size_t>(n), kGrain,
                  [&](std::size_t begin, std::size_t end) {
                    rows(gate, g + begin, u + begin, dy + begin, dg + begin, du + begin,
                         static_cast<std::int64_t>(end - begin));
                  });
}

}  // namespace optiq::kernels
