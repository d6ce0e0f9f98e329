#include "optiq/eval/wilson.h"

#include <algorithm>
#include <cmath>

namespace optiq::eval {

Interval wilson_interval(std::int64_t correct, std::int64_t n) {
  if (n <= 0) return {};
  constexpr double z = 1.959963984540054;
  const double count = static_cast<double>(n);
  const double p = static_cast<double>(correct) / count;
  const double centre = p + z * z / (2 * count);
  const double half = z * std::sqrt(p * (1 - p) / count + z * z / (4 * count * count));
  const double scale = 1 + z * z / count;
  return {std::max(0.0, (centre - half) / scale),
          std::min(1.0, (centre + half) / scale)};
}

}  // namespace optiq::eval
