#include "optiq/kernels/embedding/embedding.h"

#include <algorithm>

#include "optiq/base/parallel.h"
#include "optiq/kernels/linear/kernel_table.h"

namespace optiq::kernels {

void dequantize_rows(const MatrixView& w, const std::int32_t* ids, std::int64_t rows,
                     float* y) {
  const bool simple = !w.quantized() || w.spec.mode == QuantMode::kAffine;
  const auto kernel = OPTIQ_CHOOSE(linear_kernels)().dequantize_row;
  const auto grain = static_cast<std::size_t>(16384 / (w.K + 1) + 1);
  parallel_ranges(
      static_cast<std::size_t>(rows), grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
          // A row number that is not one must not become a read outside the table.
          const int row = ids ? std::clamp(ids[i], 0, w.N - 1) : static_cast<int>(i);
          float* to = y + static_cast<std::int64_t>(i) * w.K;
          if (simple && kernel)
            kernel(w, row, to);
          else
            ref::dequantize_row(w, row, to);
        }
      });
}

}  // namespace optiq::kernels
