#include "optiq/kernels/linear/parts.h"

namespace optiq::kernels::OPTIQ_SIMD {

LinearKernels linear_kernels() {
  LinearKernels k;
  k.panel_rows = 2 * kLanes;
  k.round_row = round_row;
  k.arrange_row = arrange_row;
  k.int8_few = int8_few;
  k.int8_many = int8_many;
  k.exact_few = exact_few;
  k.exact_many = exact_many;
  k.int8_many_scratch = int8_many_scratch;
  k.exact_few_scratch = exact_few_scratch;
  k.exact_many_scratch = exact_many_scratch;
  k.dequantize_row = dequantize_row;
  return k;
}

}  // namespace optiq::kernels::OPTIQ_SIMD
