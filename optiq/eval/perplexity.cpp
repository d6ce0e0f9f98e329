#include "optiq/eval/perplexity.h"

#include <cmath>
#include <utility>

#include "optiq/base/error.h"
#include "optiq/base/signal.h"
#include "optiq/eval/token_scores.h"

namespace optiq::eval {
namespace {

// Of a ratio of sums: windows differ in length.
double ratio_error(const std::vector<Observation>& windows, double mean) {
  if (windows.size() < 2) return 0;
  double squares = 0, tokens = 0;
  for (const Observation& w : windows) {
    const double residual = w.sum - mean * w.weight;
    squares += residual * residual;
    tokens += w.weight;
  }
  const double n = static_cast<double>(windows.size());
  return std::sqrt(squares * n / (n - 1)) / tokens;
}

}  // namespace

double Perplexity::perplexity() const { return std::exp(nll); }

Perplexity measure_perplexity(models::Model& model, const std::vector<Window>& windows,
                              const PerplexityOptions& options) {
  std::int64_t total = 0, done = 0;
  for (const Window& window : windows)
    total += static_cast<std::int64_t>(window.size());
  std::vector<Observation> sums = {{0, 0}};
  const int step = head_rows(model);
  for (const WindowBatch& batch : gather(windows, options.batch_tokens)) {
    throw_if_interrupted();
    const mx::array hidden = hidden_of(model, batch, options.forward);
    const int rows = static_cast<int>(batch.ids.size());
    for (int begin = 0; begin < rows; begin += step) {
      const int end = std::min(begin + step, rows);
      const mx::array logits =
          head_of(model, hidden, begin, end, options.forward.activation);
      std::vector<int> targets(batch.targets.begin() + begin,
                               batch.targets.begin() + end);
      for (int& target : targets) target = std::max(target, 0);
      const auto nll = token_nll(logits, targets);
      for (int i = begin; i < end; ++i) {
        if (batch.targets[static_cast<std::size_t>(i)] < 0) {
          sums.push_back({0, 0});
          continue;
        }
        sums.back().sum += nll[static_cast<std::size_t>(i - begin)];
        ++sums.back().weight;
      }
    }
    done += rows;
    if (options.on_progress) options.on_progress(done, total);
  }
  sums.pop_back();
  Perplexity result;
  result.windows = static_cast<int>(sums.size());
  for (const Observation& window : sums) {
    result.tokens += static_cast<std::int64_t>(window.weight);
    result.nll += window.sum;
  }
  result.nll /= static_cast<double>(result.tokens);
  result.nll_error = ratio_error(sums, result.nll);
  result.of_windows = std::move(sums);
  return result;
}

Estimate nll_change(const Perplexity& reference, const Perplexity& model) {
  OPTIQ_CHECK(reference.of_windows.size() == model.of_windows.size(),
              "the same windows");
  std::vector<Observation> differences = model.of_windows;
  for (std::size_t i = 0; i < differences.size(); ++i)
    differences[i].sum -= reference.of_windows[i].sum;
  return bootstrap(differences);
}

}  // namespace optiq::eval
