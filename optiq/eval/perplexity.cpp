#include "optiq/eval/perplexity.h"

#include <cmath>

#include "optiq/base/signal.h"
#include "optiq/eval/token_scores.h"

namespace optiq::eval {
namespace {

struct WindowSum {
  double nll = 0;
  std::int64_t tokens = 0;
};

// Of a ratio of sums: windows differ in length.
double ratio_error(const std::vector<WindowSum>& windows, double mean) {
  if (windows.size() < 2) return 0;
  double squares = 0, tokens = 0;
  for (const WindowSum& w : windows) {
    const double residual = w.nll - mean * static_cast<double>(w.tokens);
    squares += residual * residual;
    tokens += static_cast<double>(w.tokens);
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
  std::vector<WindowSum> sums(1);
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
          sums.emplace_back();
          continue;
        }
        sums.back().nll += nll[static_cast<std::size_t>(i - begin)];
        ++sums.back().tokens;
      }
    }
    done += rows;
    if (options.on_progress) options.on_progress(done, total);
  }
  sums.pop_back();
  Perplexity result;
  result.windows = static_cast<int>(sums.size());
  for (const WindowSum& window : sums) {
    result.tokens += window.tokens;
    result.nll += window.nll;
  }
  result.nll /= static_cast<double>(result.tokens);
  result.nll_error = ratio_error(sums, result.nll);
  return result;
}

}  // namespace optiq::eval
