#include "optiq/kernels/linear/affine_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void affine_rows_8(const FewRowsArgs& args, int group, const Launcher& launch) {
  affine_rows_of_bits<8>(args, group, launch);
}

}  // namespace optiq::kernels::cuda
