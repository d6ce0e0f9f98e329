#include "optiq/models/layers/attention.h"

#include <cmath>

#include "mlx/ops.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/rope/rope_primitive.h"

namespace optiq::models {

mx::array SelfAttention::operator()(const mx::array& x, const mx::array& residual,
                                    const LayerCall& call) const {
  const Batch& batch = call.batch;
  const int T = x.shape(0), H = n_heads, D = head_dim;
  const auto qkv = call.linears({&q, &k, &v}, x);

  kernels::AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(D));
  options.window = window;
  options.activation = batch.activation;
  mx::array queries = mx::reshape(qkv[0], {T, H, gated ? 2 * D : D});
  if (gated) {
    options.gate = mx::slice(queries, {0, 0, D}, {T, H, 2 * D});
    queries = mx::slice(queries, {0, 0, 0}, {T, H, D});
  }
  const mx::array keys = mx::reshape(qkv[1], {T, n_kv_heads, D});
  const mx::array values = mx::reshape(qkv[2], {T, n_kv_heads, D});
  const auto [rq, rk] = kernels::rope(queries, keys, batch.positions, inverse_frequency,
                                      {q_norm, k_norm, eps, rope_scale});

  mx::array y = rq;
  if (batch.states.empty()) {
    y = kernels::attention(rq, rk, values, batch.segments, options);
  } else {
    y = kernels::paged_attention(
        rq, rk, values, batch.paged[static_cast<std::size_t>(call.index)], options);
  }
  return call.linear(o, mx::reshape(y, {T, H * D}), residual);
}

}  // namespace optiq::models
