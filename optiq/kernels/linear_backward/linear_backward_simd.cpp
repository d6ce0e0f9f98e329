// Bound by multiply-adds; the panel is in the second level cache (simd_product.h).
#include "optiq/kernels/linear_backward/linear_backward.h"
#include "optiq/kernels/simd_product.h"

namespace optiq::kernels::OPTIQ_SIMD {

void linear_backward_tile(const BackwardPanel& panel, const BackwardTile& t) {
  multiply({t.dy + t.m_begin * t.dy_stride, t.dy_stride, 1, panel.values + t.k_begin,
            panel.stride, t.dx + t.m_begin * t.dx_stride + t.k_begin, t.dx_stride,
            t.m_end - t.m_begin, t.k_end - t.k_begin, panel.rows, t.first});
}

}  // namespace optiq::kernels::OPTIQ_SIMD
