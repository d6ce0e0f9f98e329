// What of sampling a CUDA device does.
#pragma once
#include <cstdint>

#include "optiq/kernels/cuda_launch.h"
#include "optiq/kernels/sampling/row_draw.h"

namespace optiq::kernels::cuda {

/// sampling_primitive.h's choose_tokens: logits [rows, width], draws [rows], ids
/// [rows].
///
/// Cost      a block a row: the largest reads it once, other draws three times
void choose_tokens(const float* logits, int rows, int width, const RowDraw* draws,
                   std::int32_t* ids, const Launcher& launch);

}  // namespace optiq::kernels::cuda
