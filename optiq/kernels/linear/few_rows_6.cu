#include "optiq/kernels/linear/few_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void few_rows_6(const FewRowsArgs& args, int group, bool exact,
                const Launcher& launch) {
  few_rows_affine<6>(args, group, exact, launch);
}

}  // namespace optiq::kernels::cuda
