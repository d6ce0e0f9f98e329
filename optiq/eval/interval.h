// Intervals around what few cases, or few windows of a text, give.
#pragma once
#include <cstdint>
#include <span>

namespace optiq::eval {

struct Interval {
  double low = 0;
  double high = 1;
};

/// The 95 % interval of a share: `correct` of `n` cases. [0, 1] for n = 0.
///
/// Source    Wilson 1927, "Probable inference, the law of succession, and statistical
///           inference"; z = 1.959964
Interval wilson_interval(std::int64_t correct, std::int64_t n);

/// What one window or one case adds to a mean. Of two models on the same cases, `sum`
/// is a difference: so the interval is that of paired values, in which what makes a
/// case hard for both takes no part.
struct Observation {
  double sum = 0;
  double weight = 1;  // tokens, or 1
};

struct Estimate {
  double mean = 0;
  Interval interval;  // 95 %
};

/// sum / weight over all observations, 0 for none, and percentiles of 2000 such means
/// of as many observations drawn with replacement. The same on every machine. One
/// observation tells no interval: both ends are the mean.
///
/// Source    Efron and Tibshirani 1993, "An introduction to the bootstrap", 13.3
Estimate bootstrap(std::span<const Observation> observations);

}  // namespace optiq::eval
