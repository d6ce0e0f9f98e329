// Matrices of 8-bit floats with scales beside them, seen as bfloat16.
//
// `X.weight` in F8_E4M3 and `X.weight_scale_inv` (transformers' "fp8": a scale for each
// block, 128 x 128 or as the config says) or `X.weight_scale` (compressed-tensors'
// "float-quantized": a scale for the matrix or for each row). Either way the value is
// the code times its scale.
#pragma once
#include <nlohmann/json.hpp>
#include <vector>

#include "optiq/checkpoint/computed_tensor.h"

namespace optiq::checkpoint {

/// Those among `tensors`.
///
/// Throws    CheckpointError for scales whose number or type does not fit
/// Source    FineGrainedFP8Config of transformers 5.17 (weight_block_size), the
///           safetensors of Qwen3-FP8; compressed-tensors' README
std::vector<ComputedTensor> find_scaled(const std::vector<const TensorInfo*>& tensors,
                                        const nlohmann::json& config);

}  // namespace optiq::checkpoint
