#include "optiq/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace optiq::train {

double Schedule::at(int step) const {
  if (step < warmup) return peak * (step + 1) / warmup;
  if (decay == Decay::kNone) return peak;
  const double done = std::clamp(
      static_cast<double>(step - warmup) / std::max(1, steps - warmup), 0.0, 1.0);
  const double left =
      decay == Decay::kLinear ? 1 - done : (1 + std::cos(std::numbers::pi * done)) / 2;
  return last + (peak - last) * left;
}

}  // namespace optiq::train
