// Scales and biases trained for what the quantized model says.
#pragma once
#include <functional>
#include <vector>

#include "optiq/convert/encoder.h"

namespace optiq::convert {

struct DistillOptions {
  int epochs = 4;                 // over the windows
  double learning_rate = 1.5e-3;  // of a scale in parts of it, of a bias in steps
  int widest = 6;  // bits; wider codes lose more in the rounding of scales
};

/// Trains the scales and biases of the plan's affine matrices, their codes as they are,
/// to lessen the mean KL(original || quantized) over the windows: Adam, four windows a
/// step. `held_out()` measures the model as it is, in nats, at first and after each
/// epoch: the best state is what the encoder keeps. Experts and the lookup in an
/// embedding are taken as constants.
///
/// Leaves    the model under the plan
/// Cost      an epoch is some five forward calls over the windows; holds the original's
///           last hidden rows, and beside each matrix in turn its gradient in float32.
/// Threads   one.
/// Source    the idea, and which values are trained: "Distilled weight quantization" of
///           mlx-lm 0.32.2 (quant/dwq.py)
void distill(Encoder& encoder, const Plan& plan, quantize::Search search,
             const std::vector<std::vector<int>>& windows,
             const std::function<double()>& held_out, const DistillOptions& options,
             const std::function<void(int done, int total)>& progress);

}  // namespace optiq::convert
