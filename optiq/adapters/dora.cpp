#include "optiq/adapters/dora.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace optiq::adapters {

mx::array squared_row_norms(const kernels::LinearWeight& w) {
  mx::array squares = mx::sum(mx::square(kernels::dequantized(w)), 1);
  mx::eval(squares);
  return squares;
}

mx::array adapted_row_norms(const kernels::LinearWeight& w,
                            const kernels::LowRank& factors, const mx::array& squares) {
  const mx::array a = mx::astype(factors.a, mx::float32);
  const mx::array b = mx::astype(factors.b, mx::float32);
  kernels::LinearWeight matrix = w;
  matrix.bias.reset();
  const mx::array products =
      kernels::linear(a, matrix, {kernels::Activation::kExact, std::nullopt});
  const mx::array cross = mx::sum(products * b, 0);
  const mx::array gram = mx::matmul(a, mx::transpose(a));
  const mx::array lengths = mx::sum(mx::matmul(gram, b) * b, 0);
  const float s = factors.scale;
  return mx::sqrt(
      mx::maximum(squares + 2 * s * cross + s * s * lengths, mx::array(0.0f)));
}

mx::array dora_gain(const kernels::LinearWeight& w, const kernels::LowRank& factors,
                    const mx::array& magnitude) {
  mx::array gain = mx::astype(magnitude, mx::float32) /
                   adapted_row_norms(w, factors, squared_row_norms(w));
  mx::eval(gain);
  return gain;
}

}  // namespace optiq::adapters
