#include "optiq/eval/kl.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "optiq/base/signal.h"
#include "optiq/eval/token_scores.h"
#include "optiq/kernels/kl_divergence/kl_divergence.h"

namespace optiq::eval {
namespace {

// What the rows of all windows gave, in order.
struct Rows {
  std::vector<double> kl;
  std::vector<std::uint8_t> same_top1;
  std::vector<Observation> nll_changes = {{0, 0}};  // of each window, and one after
  double nll = 0;
  double reference_nll = 0;
  std::int64_t scored = 0;
};

void add_scores(const mx::array& logits, const mx::array& reference,
                std::span<const int> targets, Rows& rows) {
  std::vector<int> known(targets.begin(), targets.end());
  for (int& target : known) target = std::max(target, 0);
  const auto own = token_nll(logits, known);
  const auto theirs = token_nll(reference, known);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] < 0) {
      rows.nll_changes.push_back({0, 0});
      continue;
    }
    rows.nll_changes.back().sum += own[i] - theirs[i];
    ++rows.nll_changes.back().weight;
    rows.nll += own[i];
    rows.reference_nll += theirs[i];
    ++rows.scored;
  }
}

double percentile(std::vector<double> values, double share) {
  const auto at = static_cast<std::ptrdiff_t>(
                      std::ceil(share * static_cast<double>(values.size()))) -
                  1;
  const auto nth = values.begin() + std::max<std::ptrdiff_t>(at, 0);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

// Values of all rows, in order -> their sum in each window.
template <class Value>
std::vector<Observation> of_windows(const std::vector<Window>& windows,
                                    const std::vector<Value>& values) {
  std::vector<Observation> sums;
  auto at = values.begin();
  for (const Window& window : windows) {
    const auto end = at + static_cast<std::ptrdiff_t>(window.size());
    sums.push_back({std::accumulate(at, end, 0.0), static_cast<double>(window.size())});
    at = end;
  }
  return sums;
}

double standard_error(const std::vector<Observation>& windows) {
  const auto n = static_cast<double>(windows.size());
  if (windows.size() < 2) return 0;
  std::vector<double> means;
  for (const Observation& window : windows) means.push_back(window.sum / window.weight);
  const double mean = std::accumulate(means.begin(), means.end(), 0.0) / n;
  double squares = 0;
  for (double m : means) squares += (m - mean) * (m - mean);
  return std::sqrt(squares / (n - 1) / n);
}

}  // namespace

KlResult measure_kl(models::Model& reference, models::Model& model,
                    const std::vector<Window>& windows, const KlOptions& options) {
  const int vocab = model.config().vocab_size;
  if (reference.config().vocab_size != vocab)
    throw std::invalid_argument(fmt::format(
        "expected models of one vocabulary, found {} tokens in the reference and {} in "
        "the model",
        reference.config().vocab_size, vocab));
  std::int64_t total = 0;
  for (const Window& window : windows)
    total += static_cast<std::int64_t>(window.size());
  Rows rows;
  const int step = head_rows(model);
  for (const WindowBatch& batch : gather(windows, options.batch_tokens)) {
    throw_if_interrupted();
    const mx::array theirs =
        hidden_of(reference, batch, {options.reference_activation, std::nullopt});
    const mx::array ours = hidden_of(model, batch, options.forward);
    const int n = static_cast<int>(batch.ids.size());
    for (int begin = 0; begin < n; begin += step) {
      const int end = std::min(begin + step, n);
      const mx::array p =
          head_of(reference, theirs, begin, end, options.reference_activation);
      const mx::array q = head_of(model, ours, begin, end, options.forward.activation);
      const std::size_t done = rows.kl.size();
      rows.kl.resize(done + static_cast<std::size_t>(end - begin));
      rows.same_top1.resize(rows.kl.size());
      kernels::kl_divergence(p.data<float>(), q.data<float>(), end - begin, vocab,
                             rows.kl.data() + done, rows.same_top1.data() + done);
      add_scores(q, p,
                 std::span(batch.targets)
                     .subspan(static_cast<std::size_t>(begin),
                              static_cast<std::size_t>(end - begin)),
                 rows);
    }
    if (options.on_progress)
      options.on_progress(static_cast<std::int64_t>(rows.kl.size()), total);
  }
  std::vector<int> flips;
  for (const std::uint8_t same : rows.same_top1) flips.push_back(same ? 0 : 1);
  const auto kl_of_windows = of_windows(windows, rows.kl);
  KlResult result;
  result.tokens = static_cast<std::int64_t>(rows.kl.size());
  result.windows = static_cast<int>(windows.size());
  result.kl = bootstrap(kl_of_windows);
  result.kl_error = standard_error(kl_of_windows);
  result.kl_p99 = percentile(rows.kl, 0.99);
  result.flip_rate = bootstrap(of_windows(windows, flips));
  rows.nll_changes.pop_back();
  result.nll_change = bootstrap(rows.nll_changes);
  result.nll = rows.nll / static_cast<double>(rows.scored);
  result.reference_nll = rows.reference_nll / static_cast<double>(rows.scored);
  return result;
}

}  // namespace optiq::eval
