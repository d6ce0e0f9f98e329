// The gradients of a random problem, for tests of their kernels.
#pragma once
#include <cmath>
#include <functional>
#include <vector>

#include "optiq/kernels/gated_delta/gated_delta_backward.h"
#include "optiq/kernels/gated_delta/gated_delta_problem.h"

namespace optiq::kernels {

/// By the inputs of the gated delta rule.
struct DeltaGradients {
  std::vector<float> qkv, a, b;
};

/// Those of a problem whose outputs have the gradients d_o, and its last states
/// d_states where there are any.
inline DeltaGradients gradients_of(
    GatedDeltaProblem& p, const std::vector<float>& d_o,
    const std::vector<const float*>& d_states = {},
    const std::function<void(const GatedDeltaBackwardArgs&)>& backward =
        gated_delta_backward) {
  std::vector<GatedDeltaSegment> segments;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < p.tokens.size(); ++i) {
    segments.push_back(
        {row, p.tokens[i], p.states.data() + i * p.state_size(), nullptr});
    row += p.tokens[i];
  }
  GatedDeltaBackwardArgs args{};
  args.forward = {p.qkv.data(),
                  p.a.data(),
                  p.b.data(),
                  p.qkv_stride(),
                  p.Hv + p.kGap,
                  p.Hv + p.kGap,
                  p.a_log.data(),
                  p.dt_bias.data(),
                  nullptr,
                  segments.data(),
                  static_cast<int>(segments.size()),
                  p.Hk,
                  p.Hv,
                  p.Dk,
                  p.Dv};
  const auto T = static_cast<std::size_t>(p.T), heads = static_cast<std::size_t>(p.Hv);
  DeltaGradients g{
      std::vector<float>(T * static_cast<std::size_t>(p.qkv_stride() - p.kGap)),
      std::vector<float>(T * heads), std::vector<float>(T * heads)};
  args.d_o = d_o.data();
  args.d_qkv = g.qkv.data();
  args.d_a = g.a.data();
  args.d_b = g.b.data();
  args.d_states = d_states.empty() ? nullptr : d_states.data();
  backward(args);
  return g;
}

inline double largest(const std::vector<float>& x) {
  double most = 0;
  for (const float value : x) most = std::max(most, std::abs(double(value)));
  return most;
}

}  // namespace optiq::kernels
