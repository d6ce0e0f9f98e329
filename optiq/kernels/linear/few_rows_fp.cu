#include "optiq/kernels/linear/few_rows_cuda.cuh"

namespace optiq::kernels::cuda {

void few_rows_fp(const FewRowsArgs& args, QuantMode mode, bool exact,
                 const Launcher& launch) {
  if (mode == QuantMode::kMxfp4)
    return few_rows_of<Format<QuantMode::kMxfp4, 4, 32>>(args, exact, launch);
  if (mode == QuantMode::kMxfp8)
    return few_rows_of<Format<QuantMode::kMxfp8, 8, 32>>(args, exact, launch);
  few_rows_of<Format<QuantMode::kNvfp4, 4, 16>>(args, exact, launch);
}

}  // namespace optiq::kernels::cuda
