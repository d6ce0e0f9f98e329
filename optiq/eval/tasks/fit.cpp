#include "optiq/eval/tasks/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace optiq::eval {

// Tokens grow almost evenly with n, so the next n is that where a straight line through
// the last two known points meets the length.
Case fit(const CaseWish& wish, int least, const std::function<Case(int n)>& build) {
  constexpr int kCloseTokens = 8;
  Case best = build(least);
  int tokens = wish.count(best);
  if (tokens > wish.length)
    throw std::invalid_argument(fmt::format(
        "expected a length of at least {} tokens, which the smallest case takes, found "
        "{}",
        tokens, wish.length));
  int low = least, above = 0;  // build(low) fits; build(above) does not, once known
  double tokens_per_step = 4;
  while (wish.length - tokens >= kCloseTokens && (above == 0 || above - low > 1)) {
    const double steps = (wish.length - tokens) / tokens_per_step;
    int n = low + static_cast<int>(std::clamp(steps, 1.0, 1e6));
    if (above > 0) n = std::min(n, above - 1);
    Case next = build(n);
    const int found = wish.count(next);
    tokens_per_step = std::max(0.25, static_cast<double>(found - tokens) / (n - low));
    if (found > wish.length) {
      above = n;
    } else {
      low = n;
      tokens = found;
      best = std::move(next);
    }
  }
  return best;
}

}  // namespace optiq::eval
