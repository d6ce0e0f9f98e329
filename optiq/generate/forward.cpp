#include "optiq/generate/forward.h"

#include "mlx/transforms.h"
#include "optiq/kernels/fused_primitive.h"

namespace optiq::generation {
namespace {

// Rows of a call from which a layer takes far longer than waiting for it (some 50 us).
constexpr int kManyRows = 64;

}  // namespace

// On a GPU each call dequantizes all weights first, a sixth of its time at 2048 rows.
int rows_of_prefill() { return kernels::runs_on_cpu() ? 512 : 4096; }

mlx::core::array forward_layers(models::Model& model, const mlx::core::array& ids,
                                const models::Batch& batch) {
  const bool by_layer = kernels::runs_on_cpu() && ids.shape(0) >= kManyRows;
  mlx::core::array x = model.embed(ids);
  for (int i = 0; i < model.n_layers(); ++i) {
    if (by_layer && i > 0) mlx::core::eval(x);
    x = model.layer(i, x, batch);
  }
  return x;
}

}  // namespace optiq::generation
