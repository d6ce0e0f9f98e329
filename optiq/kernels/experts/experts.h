// The experts of a sparse MLP: each token through a few of many small gated MLPs.
#pragma once
#include <cstdint>

#include "optiq/kernels/glu/glu.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels {

/// One call of experts.
///
/// Shapes    x, residual, y [T, K]; ids, weights [T, n_active]; gate, up [E N, K] and
///           down [E K, N]: the experts' matrices one below the other
/// Requires  0 <= id < E, those of a token different
struct ExpertsArgs {
  const float* x;
  const std::int32_t* ids;
  const float* weights;
  const float* residual = nullptr;  // null: none
  float* y;                         // may be residual
  int T;
  int n_active;
  int n_experts;
  MatrixView gate, up, down;
  GluGate f = GluGate::kSilu;
  Activation activation = Activation::kInt8;
};

/// y_t = residual_t + sum_i weight_ti down_e(f(gate_e x_t) * up_e x_t), e = id_ti,
/// summed in the order of i.
///
/// Tokens are brought together by expert, so that each expert's matrices are read once
/// a call. A token's result is the same to the last bit whichever tokens share the
/// call.
///
/// Threads   runs on the pool.
/// Cost      few tokens: reads the matrices of the experts in use once, bound by bytes.
///           Memory: n_active T (K + N) floats and the inputs' forms.
void experts(const ExpertsArgs& args);

namespace ref {
/// The definition, a token at a time.
void experts(const ExpertsArgs& args);
}  // namespace ref
}  // namespace optiq::kernels
