#include "optiq/models/layers/attention.h"

#include "mlx/ops.h"
#include "optiq/kernels/attention/attention_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"
#include "optiq/kernels/rope/rope_primitive.h"

namespace optiq::models {
namespace {

// Which rows turn by the frequencies for long sequences; none: no row.
std::optional<mx::array> long_rows(const Batch& batch, std::int64_t long_from) {
  if (!batch.states.empty()) return batch.long_rows;
  std::vector<int> rows;
  for (const kernels::Segment& segment : batch.segments)
    rows.insert(rows.end(), static_cast<std::size_t>(segment.tokens),
                segment.tokens > long_from ? 1 : 0);
  return mx::array(rows.data(), {static_cast<int>(rows.size())}, mx::int32);
}

}  // namespace

// Queries (with their gates), keys, values, [T, rows]; the latter two as far as the
// layer has them.
std::vector<mx::array> SelfAttention::projections(const mx::array& x,
                                                  const LayerCall& call) const {
  if (shares_with >= 0) return {call.linear(q, x, std::nullopt)};
  if (!k) {
    const int rows = n_kv_heads * head_dim;
    return call.packed(q, {n_heads * head_dim, rows, rows}, x);
  }
  if (!v) return call.linears({&q, &*k}, x);
  return call.linears({&q, &*k, &*v}, x);
}

mx::array SelfAttention::operator()(const mx::array& x,
                                    const std::optional<mx::array>& residual,
                                    const LayerCall& call,
                                    std::optional<KeysValues>& shared) const {
  const Batch& batch = call.batch;
  const int T = x.shape(0), H = n_heads, D = head_dim;
  const auto qkv = projections(x, call);

  kernels::AttentionOptions options;
  options.scale = scale;
  options.window = window;
  options.activation = batch.activation;
  mx::array queries = mx::reshape(qkv[0], {T, H, gated ? 2 * D : D});
  if (gated) {
    options.gate = mx::slice(queries, {0, 0, D}, {T, H, 2 * D});
    queries = mx::slice(queries, {0, 0, 0}, {T, H, D});
  }
  const bool owns = shares_with < 0;
  // A layer without keys turns none.
  const mx::array keys = owns ? mx::reshape(qkv[1], {T, n_kv_heads, D})
                              : mx::slice(queries, {0, 0, 0}, {T, 0, D});
  kernels::RopeOptions turning{q_norm, owns ? k_norm : std::nullopt, eps, rope.scale};
  if (rope.long_inverse_frequency) {
    turning.long_inverse_frequency = rope.long_inverse_frequency;
    turning.long_rows = long_rows(batch, rope.long_from);
  }
  const auto [rq, rk] =
      kernels::rope(queries, keys, batch.positions, rope.inverse_frequency, turning);

  if (call.query_observer) call.query_observer(owns ? call.index : shares_with, rq);

  const auto attend = [&]() -> mx::array {
    const bool cached = !batch.states.empty();
    if (!owns) {
      if (cached)
        return kernels::attention_over_pages(
            rq, batch.paged[static_cast<std::size_t>(shares_with)], n_kv_heads,
            options);
      return kernels::attention(rq, shared->keys, shared->values, batch.segments,
                                options);
    }
    mx::array values = v || !k ? mx::reshape(qkv[2], {T, n_kv_heads, D}) : keys;
    if (v_norm) values = kernels::rms_norm(values, *v_norm, eps);
    if (cached)
      return kernels::paged_attention(
          rq, rk, values, batch.paged[static_cast<std::size_t>(call.index)], options);
    shared = KeysValues{rk, values};
    return kernels::attention(rq, rk, values, batch.segments, options);
  };
  return call.linear(o, mx::reshape(attend(), {T, H * D}), residual);
}

}  // namespace optiq::models
