#include "optiq/kernels/linear/affine_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void affine_rows_2(const FewRowsArgs& args, int group, const Launcher& launch) {
  affine_rows_of_bits<2>(args, group, launch);
}

}  // namespace optiq::kernels::cuda
