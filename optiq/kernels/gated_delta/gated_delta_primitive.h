// The gated delta rule: linear attention with a state that forgets and corrects.
#pragma once
#include <span>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "optiq/kernels/segment.h"

namespace optiq::kernels {

namespace mx = mlx::core;

struct GatedDeltaOptions {
  int n_key_heads = 0;    // Hk; value head h reads key head h / (Hv / Hk)
  int n_value_heads = 0;  // Hv
  int key_dim = 0;        // Dk
  int value_dim = 0;      // Dv
};

/// Per value head, with q and k scaled to length one (x / sqrt(sum x^2 + 1e-6)) and q
/// then by Dk^-1/2,
///   S <- exp(g_t) S + k_t (beta_t (v_t - k_t^T exp(g_t) S))^T,   o_t = S^T q_t,
///   g_t = -exp(a_log) softplus(a_t + dt_bias),   beta_t = sigmoid(b_t).
///
/// Shapes    qkv [T, 2 Hk Dk + Hv Dv] float32: q, k, v side by side, after convolution;
///           a, b [T, Hv]; a_log, dt_bias [Hv] float32;
///           states: one [Hv, Dk, Dv] float32 a segment -> o [T, Hv Dv], new states
///           (in place where nobody else holds them: move them in)
/// Source    Yang et al. 2024, "Gated Delta Networks", eq. 10
std::pair<mx::array, std::vector<mx::array>> gated_delta(
    const mx::array& qkv, const mx::array& a, const mx::array& b,
    const mx::array& a_log, const mx::array& dt_bias, std::span<const Segment> segments,
    std::vector<mx::array> states, const GatedDeltaOptions& options);

}  // namespace optiq::kernels
