// The learning rate of each step.
#pragma once
#include <string>

namespace optiq::train {

enum class Decay { kNone, kCosine, kLinear };

struct Schedule {
  double peak = 1e-5;
  Decay decay = Decay::kNone;
  int warmup = 0;    // steps from 0 to the peak
  int steps = 1000;  // of the whole run: there the decay ends
  double last = 0;   // where it ends

  /// Requires  step from 0 on
  double at(int step) const;
};

}  // namespace optiq::train
