// The interval around an accuracy that few cases give.
#pragma once
#include <cstdint>

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

}  // namespace optiq::eval
