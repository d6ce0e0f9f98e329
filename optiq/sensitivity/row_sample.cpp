#include "optiq/sensitivity/row_sample.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace optiq::sensitivity {

namespace mx = mlx::core;

RowSample even_rows(int N, std::int64_t n) {
  if (n >= N) return {};
  RowSample sample{{}, static_cast<double>(N) / static_cast<double>(n)};
  for (std::int64_t i = 0; i < n; ++i)
    sample.rows.push_back(static_cast<int>((2 * i + 1) * N / (2 * n)));
  return sample;
}

RowSample frequent_rows(std::span<const std::int64_t> counts, std::int64_t n) {
  const auto N = static_cast<std::int64_t>(counts.size());
  if (n >= N) return {};
  RowSample sample;
  sample.rows.resize(counts.size());
  std::iota(sample.rows.begin(), sample.rows.end(), 0);
  std::ranges::stable_sort(sample.rows, [&](int a, int b) {
    return counts[static_cast<std::size_t>(a)] > counts[static_cast<std::size_t>(b)];
  });
  sample.rows.resize(static_cast<std::size_t>(n));
  std::ranges::sort(sample.rows);
  std::int64_t covered = 0;
  for (const int row : sample.rows) covered += counts[static_cast<std::size_t>(row)];
  const std::int64_t all =
      std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  if (covered > 0)
    sample.scale = static_cast<double>(all) / static_cast<double>(covered);
  return sample;
}

kernels::LinearWeight rows_of(const kernels::LinearWeight& w, const RowSample& sample) {
  kernels::LinearWeight part = w;
  part.bias.reset();
  if (sample.is_all()) return part;
  const mx::array rows(sample.rows.data(), {static_cast<int>(sample.rows.size())},
                       mx::int32);
  part.weight = mx::take(w.weight, rows, 0);
  std::vector<mx::array> made{part.weight};
  for (std::optional<mx::array>* side : {&part.scales, &part.biases})
    if (*side) made.push_back(side->emplace(mx::take(**side, rows, 0)));
  mx::eval(made);
  return part;
}

}  // namespace optiq::sensitivity
