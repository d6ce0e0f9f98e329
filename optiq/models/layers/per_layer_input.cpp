#include "optiq/models/layers/per_layer_input.h"

#include <cmath>

#include "mlx/ops.h"
#include "optiq/kernels/elementwise/elementwise_primitive.h"
#include "optiq/kernels/embedding/embedding_primitive.h"
#include "optiq/kernels/glu/glu_primitive.h"
#include "optiq/kernels/rms_norm/rms_norm_primitive.h"

namespace optiq::models {

mx::array PerLayerInput::operator()(const mx::array& x, const mx::array& input,
                                    float scale, const LayerCall& call) const {
  const mx::array h = kernels::glu_product(call.linear(gate, x, std::nullopt), input,
                                           kernels::GluGate::kGeluTanh);
  const mx::array y = call.linear(projection, h, std::nullopt);
  return kernels::scaled_sum(x, kernels::rms_norm(y, norm, eps), scale);
}

mx::array PerLayerEmbedding::operator()(const mx::array& ids, const mx::array& x,
                                        const InputObserver& observer) const {
  const int T = ids.shape(0), P = norm.shape(0), width = n_layers * P;
  if (observer) observer(projection, x);
  // Its rounding would reach every layer.
  const mx::array projected =
      kernels::scaled_sum(kernels::linear(x, projection.weight,
                                          {kernels::Activation::kExact, std::nullopt}),
                          std::nullopt, 1 / std::sqrt(static_cast<float>(x.shape(1))));
  const mx::array normed = mx::reshape(
      kernels::rms_norm(mx::reshape(projected, {T, n_layers, P}), norm, eps),
      {T, width});
  const mx::array of_tokens =
      kernels::scaled_sum(kernels::embedding(ids, table.weight), std::nullopt,
                          std::sqrt(static_cast<float>(P)));
  return kernels::scaled_sum(normed, of_tokens, 1 / std::sqrt(2.0f));
}

}  // namespace optiq::models
