// The optimizer.
#pragma once
#include <vector>

#include "mlx/array.h"

namespace optiq::train {

namespace mx = mlx::core;

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
};

/// Source    Loshchilov and Hutter 2017, algorithm 2, with the bias corrections.
class AdamW {
 public:
  AdamW(const std::vector<mx::array>& values, const AdamWOptions& options);

  /// Replaces the values by what one step makes of them.
  ///
  /// Requires  evaluated float32 arrays of the values' shapes.
  void step(std::vector<mx::array>& values, const std::vector<mx::array>& gradients,
            double learning_rate);

  int steps() const { return steps_; }

  /// The moments, for saving and going on.
  const std::vector<mx::array>& first() const { return first_; }
  const std::vector<mx::array>& second() const { return second_; }
  void restore(std::vector<mx::array> first, std::vector<mx::array> second, int steps);

 private:
  AdamWOptions options_;
  std::vector<mx::array> first_, second_;
  int steps_ = 0;
};

}  // namespace optiq::train
