#include "optiq/sensitivity/change_costs.h"

#include <algorithm>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "optiq/base/signal.h"

namespace optiq::sensitivity {
namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

constexpr auto kExact = kernels::Activation::kExact;

double half_sum_of_squares(const mx::array& terms) {
  return 0.5 * mx::sum(mx::square(terms)).item<float>();
}

// x by its rows in a sample, [T, N] -> [T, n].
mx::array columns_of(const mx::array& x, const RowSample& sample) {
  if (sample.is_all()) return x;
  return mx::take(
      x,
      mx::array(sample.rows.data(), {static_cast<int>(sample.rows.size())}, mx::int32),
      1);
}

}  // namespace

Costs costs_in_layer(const Seen& seen, const RowSample& sample, const Arrays& changes) {
  const int F = static_cast<int>(changes.size());
  if (F == 0) return {};
  // One product for all formats: [T, K] by [K, F n].
  const mx::array all = mx::transpose(mx::concatenate(changes, 0));
  mx::array sums = mx::zeros({F});
  for (std::size_t i = 0; i < seen.x.size(); ++i) {
    const mx::array g = mx::expand_dims(columns_of(seen.g[i], sample), 1);
    const int T = g.shape(0), n = g.shape(2);
    const mx::array changed = mx::reshape(mx::matmul(seen.x[i], all), {T, F, n});
    sums = sums + mx::sum(mx::square(mx::sum(changed * g, -1)), 0);
    mx::eval(sums);
  }
  Costs costs;
  for (int f = 0; f < F; ++f)
    costs.push_back(0.5 * sample.scale * sums.data<float>()[f]);
  return costs;
}

Costs costs_in_head(models::Model& model, std::span<const Trip> trips,
                    const RowSample& sample, const Arrays& changes) {
  Costs costs(changes.size(), 0.0);
  double covered = 0, tokens = 0;
  for (const Trip& trip : trips) {
    const mx::array& x = trip.inputs.back();
    for (int begin = 0; begin < x.shape(0); begin += kHeadRows) {
      throw_if_interrupted();
      const mx::array rows = mx::slice(
          x, {begin, 0}, {std::min(begin + kHeadRows, x.shape(0)), x.shape(1)});
      const mx::array p = columns_of(
          mx::softmax(model.head(rows, kExact), std::vector<int>{-1}, true), sample);
      const mx::array given = model.final_norm(rows);
      mx::eval(p, given);
      covered += sample.is_all() ? rows.shape(0) : mx::sum(p).item<float>();
      tokens += rows.shape(0);
      for (std::size_t f = 0; f < changes.size(); ++f) {
        const mx::array d = mx::matmul(given, mx::transpose(changes[f]));
        const mx::array mean = mx::sum(p * d, -1, true);
        costs[f] += 0.5 * mx::sum(p * mx::square(d - mean)).item<float>();
      }
    }
  }
  for (double& cost : costs) cost *= tokens / std::max(covered, 1e-6 * tokens);
  return costs;
}

Costs costs_of_lookup(std::span<const Trip> trips, const RowSample& sample, int N,
                      const Arrays& changes) {
  std::vector<int> place(static_cast<std::size_t>(N), -1);  // in the sample
  for (int i = 0; i < N && sample.is_all(); ++i) place[static_cast<std::size_t>(i)] = i;
  for (std::size_t i = 0; i < sample.rows.size(); ++i)
    place[static_cast<std::size_t>(sample.rows[i])] = static_cast<int>(i);
  Costs costs(changes.size(), 0.0);
  double covered = 0, tokens = 0;
  for (const Trip& trip : trips) {
    std::vector<int> at, from;
    for (int t = 0; t < trip.ids.shape(0); ++t)
      if (const int row =
              place[static_cast<std::size_t>(trip.ids.data<std::int32_t>()[t])];
          row >= 0) {
        at.push_back(t);
        from.push_back(row);
      }
    tokens += trip.ids.shape(0);
    covered += static_cast<double>(at.size());
    if (at.empty()) continue;
    const int n = static_cast<int>(at.size()), K = changes.front().shape(1);
    const mx::array g = mx::take(mx::slice(trip.back, {0, 0}, {trip.back.shape(0), K}),
                                 mx::array(at.data(), {n}, mx::int32), 0);
    const mx::array rows(from.data(), {n}, mx::int32);
    for (std::size_t f = 0; f < changes.size(); ++f)
      costs[f] += half_sum_of_squares(mx::sum(g * mx::take(changes[f], rows, 0), -1));
  }
  for (double& cost : costs) cost *= tokens / std::max(covered, 1.0);
  return costs;
}

}  // namespace optiq::sensitivity
