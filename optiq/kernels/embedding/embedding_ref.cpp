#include "optiq/kernels/embedding/embedding.h"
#include "optiq/kernels/linear/linear.h"

namespace optiq::kernels::ref {

void dequantize_row(const MatrixView& w, int row, float* y) {
  for (int k = 0; k < w.K; ++k) y[k] = weight_at(w, row, k);
}

}  // namespace optiq::kernels::ref
