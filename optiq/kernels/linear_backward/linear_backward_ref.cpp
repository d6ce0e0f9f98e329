#include "optiq/kernels/linear_backward/linear_backward.h"

namespace optiq::kernels::ref {

void linear_backward_tile(const BackwardPanel& panel, const BackwardTile& t) {
  for (int m = t.m_begin; m < t.m_end; ++m)
    for (int k = t.k_begin; k < t.k_end; ++k) {
      double sum = 0;
      for (int n = 0; n < panel.rows; ++n)
        sum += static_cast<double>(t.dy[m * t.dy_stride + n]) *
               panel.values[n * panel.stride + k];
      float& dx = t.dx[m * t.dx_stride + k];
      dx = static_cast<float>(t.first ? sum : dx + sum);
    }
}

}  // namespace optiq::kernels::ref
