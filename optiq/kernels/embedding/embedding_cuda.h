// embedding.h's contract on a CUDA device.
#pragma once
#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/embedding/embedding.h"

namespace optiq::kernels::cuda {

/// kernels::dequantize_rows, all pointers of the device.
void dequantize_rows(const MatrixView& w, const std::int32_t* ids, std::int64_t rows,
                     float* y, const Launcher& launch);

}  // namespace optiq::kernels::cuda
