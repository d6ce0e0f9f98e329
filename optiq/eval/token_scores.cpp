#include "optiq/eval/token_scores.h"

#include <algorithm>
#include <limits>

#include "optiq/base/error.h"
#include "optiq/base/parallel.h"
#include "optiq/kernels/kl_divergence/kl_divergence.h"

namespace optiq::eval {
namespace {

// The normalizer of the softmax is the same for both tokens.
double margin_of(const float* row, int n, int target) {
  float other = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < target; ++i) other = std::max(other, row[i]);
  for (int i = target + 1; i < n; ++i) other = std::max(other, row[i]);
  return static_cast<double>(row[target]) - other;
}

}  // namespace

std::vector<double> token_nll(const mx::array& logits, std::span<const int> targets) {
  OPTIQ_CHECK(targets.size() == static_cast<std::size_t>(logits.shape(0)),
              "a target for each row");
  OPTIQ_CHECK(logits.dtype() == mx::float32 && logits.flags().row_contiguous,
              "rows of float32 end to end");
  std::vector<double> nll(targets.size());
  kernels::token_nll(logits.data<float>(), targets.data(), logits.shape(0),
                     logits.shape(1), nll.data());
  return nll;
}

std::vector<TokenScore> score_tokens(const mx::array& logits,
                                     std::span<const int> targets) {
  const std::vector<double> nll = token_nll(logits, targets);
  const auto vocab = static_cast<std::size_t>(logits.shape(1));
  const float* data = logits.data<float>();
  std::vector<TokenScore> scores(targets.size());
  parallel_ranges(targets.size(), 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      scores[i] = {nll[i], margin_of(data + i * vocab, logits.shape(1), targets[i])};
  });
  return scores;
}

}  // namespace optiq::eval
