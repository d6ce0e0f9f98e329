#include "optiq/kernels/embedding/embedding.h"

#include "optiq/base/parallel.h"

namespace optiq::kernels {

void dequantize_rows(const MatrixView& w, const std::int32_t* ids, std::int64_t rows,
                     float* y) {
  const auto grain = static_cast<std::size_t>(16384 / (w.K + 1) + 1);
  parallel_ranges(static_cast<std::size_t>(rows), grain,
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t i = begin; i < end; ++i)
                      ref::dequantize_row(w, ids ? ids[i] : static_cast<int>(i),
                                          y + static_cast<std::int64_t>(i) * w.K);
                  });
}

}  // namespace optiq::kernels
