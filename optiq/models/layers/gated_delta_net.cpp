#include "optiq/models/layers/gated_delta_net.h"

#include "mlx/ops.h"
#include "optiq/kernels/causal_conv/causal_conv_primitive.h"
#include "optiq/kernels/gated_delta/gated_delta_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

namespace optiq::models {

mx::array GatedDeltaNet::operator()(const mx::array& x,
                                    const std::optional<mx::array>& residual,
                                    const LayerCall& call) const {
  const Batch& batch = call.batch;
  const int T = x.shape(0);
  const auto in = call.linears({&in_qkv, &in_z, &in_b, &in_a}, x);
  const mx::array &z = in[1], &b = in[2], &a = in[3];

  // A batch without a cache starts every sequence from nothing.
  std::vector<mx::array> tails, states;
  for (std::size_t i = 0; i < batch.segments.size(); ++i) {
    if (batch.states.empty()) {
      tails.push_back(mx::zeros({conv.shape(1) - 1, conv.shape(0)}));
      states.push_back(mx::zeros({n_value_heads, key_dim, value_dim}));
    } else {
      cache::RecurrentState& memory = batch.states[i]->recurrent(call.index);
      tails.push_back(std::move(memory.conv_tail));  // to be written in place
      states.push_back(std::move(memory.delta_state));
    }
  }
  auto [qkv, new_tails] = kernels::causal_conv_silu(in[0], conv, batch.segments, tails);
  auto [y, new_states] =
      kernels::gated_delta(qkv, a, b, a_log, dt_bias, batch.segments, std::move(states),
                           {n_key_heads, n_value_heads, key_dim, value_dim});
  for (std::size_t i = 0; i < batch.states.size(); ++i) {
    cache::RecurrentState& memory = batch.states[i]->recurrent(call.index);
    memory.conv_tail = new_tails[i];
    memory.delta_state = new_states[i];
  }

  const mx::Shape heads{T, n_value_heads, value_dim};
  y = kernels::rms_norm(mx::reshape(y, heads), norm, eps, mx::reshape(z, heads));
  return call.linear(out, mx::reshape(y, {T, n_value_heads * value_dim}), residual);
}

}  // namespace optiq::models
