// Which experts a token goes to.
#pragma once
#include <cstdint>

namespace optiq::kernels {

/// One call of route.
///
/// Shapes    logits [T, n_experts]; expert_scale [n_experts]; ids, weights [T,
/// n_active] Requires  1 <= n_active <= n_experts
struct RouteArgs {
  const float* logits;
  const float* expert_scale = nullptr;  // null: all 1
  std::int32_t* ids;
  float* weights;
  int T;
  int n_experts;
  int n_active;
  bool normalize;  // the weights of a token sum to 1 before expert_scale
};

/// The n_active experts of the largest softmax(logits), the largest first (of equals
/// the lower id), and their probabilities times expert_scale.
///
/// A NaN among a token's logits makes its weights NaN; its ids are still experts.
///
/// Source    Shazeer et al. 2017, "Outrageously large neural networks", section 2.1, in
///           the form of Qwen3 MoE; expert_scale: Gemma 4.
void route(const RouteArgs& args);

}  // namespace optiq::kernels
