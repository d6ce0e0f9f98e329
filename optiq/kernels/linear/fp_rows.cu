#include "optiq/kernels/linear/fp_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void fp_rows(const FewRowsArgs& args, QuantMode mode, const Launcher& launch) {
  if (mode == QuantMode::kMxfp4)
    return fp_rows_of<Format<QuantMode::kMxfp4, 4, 32>>(args, launch);
  if (mode == QuantMode::kMxfp8)
    return fp_rows_of<Format<QuantMode::kMxfp8, 8, 32>>(args, launch);
  fp_rows_of<Format<QuantMode::kNvfp4, 4, 16>>(args, launch);
}

}  // namespace optiq::kernels::cuda
