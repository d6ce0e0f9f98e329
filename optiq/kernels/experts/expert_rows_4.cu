#include "optiq/kernels/experts/expert_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void expert_rows_4(const ExpertRowsArgs& args, int group, const Launcher& launch) {
  expert_rows_of_bits<4>(args, group, launch);
}

}  // namespace optiq::kernels::cuda
