#include "optiq/kernels/linear_backward/linear_backward.h"

#include <algorithm>
#include <cstring>

#include "optiq/base/parallel.h"
#include "optiq/kernels/dispatch.h"
#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/kernel_table.h"
#include "optiq/kernels/linear/scratch.h"

namespace optiq::kernels {

OPTIQ_DECLARE_SIMD(void linear_backward_tile(const BackwardPanel& panel,
                                             const BackwardTile& tile))

namespace {

constexpr int kStrip = 32;             // columns that a tile keeps in registers
constexpr int kPanelValues = 1 << 18;  // 1 MB: second level cache
constexpr int kMostRows = 256, kLeastRows = 32;
constexpr int kRowsATask = 96, kColumnsATask = 4 * kStrip;

}  // namespace

void linear_backward(const BackwardProduct* products, int n_products, int M, int K,
                     float* dx) {
  const auto tile = OPTIQ_CHOOSE(linear_backward_tile);
  const LinearKernels kernels = OPTIQ_CHOOSE(linear_kernels)();
  // Not a multiple of a page: rows would fall into the same sets of the cache.
  const std::int64_t stride = (std::int64_t{K} + kStrip - 1) / kStrip * kStrip + kStrip;
  const int rows = static_cast<int>(
      std::clamp<std::int64_t>(kPanelValues / stride, kLeastRows, kMostRows));
  thread_local Scratch memory;
  auto* values = static_cast<float*>(
      memory.get(static_cast<std::size_t>(rows * stride) * sizeof(float)));
  const int m_tasks = (M + kRowsATask - 1) / kRowsATask;
  const int k_tasks = (K + kColumnsATask - 1) / kColumnsATask;
  bool first = true;
  for (int i = 0; i < n_products; ++i) {
    const MatrixView& w = products[i].w;
    const bool by_kernel =
        kernels.dequantize_row && (!w.quantized() || w.spec.mode == QuantMode::kAffine);
    for (int n = 0; n < w.N; n += rows) {
      const int count = std::min(rows, w.N - n);
      parallel_ranges(static_cast<std::size_t>(count), 8,
                      [&](std::size_t begin, std::size_t end) {
                        for (std::size_t r = begin; r < end; ++r) {
                          float* row = values + static_cast<std::int64_t>(r) * stride;
                          const int from = n + static_cast<int>(r);
                          by_kernel ? kernels.dequantize_row(w, from, row)
                                    : ref::dequantize_row(w, from, row);
                          std::fill(row + K, row + stride, 0.0f);
                        }
                      });
      const BackwardPanel panel{values, stride, count};
      parallel_for(static_cast<std::size_t>(m_tasks * k_tasks), [&](std::size_t task) {
        const int m = static_cast<int>(task) % m_tasks * kRowsATask;
        const int k = static_cast<int>(task) / m_tasks * kColumnsATask;
        tile(panel, {products[i].dy + n, w.N, dx, K, m, std::min(M, m + kRowsATask), k,
                     std::min(K, k + kColumnsATask), first});
      });
      first = false;
    }
  }
}

}  // namespace optiq::kernels
