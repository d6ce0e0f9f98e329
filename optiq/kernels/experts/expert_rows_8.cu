#include "optiq/kernels/experts/expert_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void expert_rows_8(const ExpertRowsArgs& args, int group, const Launcher& launch) {
  expert_rows_of_bits<8>(args, group, launch);
}

}  // namespace optiq::kernels::cuda
