// Matrices of 8-bit floats with scales beside them, seen as bfloat16.
//
// `X.weight` in F8_E4M3 and `X.weight_scale_inv` (transformers' "fp8": a scale for each
// block, 128 x 128 or as the config says) or `X.weight_scale` (compressed-tensors'
// "float-quantized": a scale for the matrix or for each row). Either way the value is
// the code times its scale.
#pragma once
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "optiq/checkpoint/safetensors.h"

namespace optiq::checkpoint {

struct ScaledTensor {
  TensorInfo info;     // as it is seen: BF16; its offset means nothing
  std::string scales;  // name of the tensor that holds them
  std::int64_t block_rows = 0, block_columns = 0;  // that share a scale
  std::int64_t scale_columns = 0;                  // scales of one row of blocks
};

/// Those among `tensors`, by name.
///
/// Throws    CheckpointError for scales whose number or type does not fit
/// Source    FineGrainedFP8Config of transformers 5.17 (weight_block_size), the
///           safetensors of Qwen3-FP8; compressed-tensors' README
std::map<std::string, ScaledTensor> find_scaled(
    const std::vector<const TensorInfo*>& tensors, const nlohmann::json& config);

/// The bits of code x scale in bfloat16, rounded to nearest even. `scales` is row major
/// over the blocks.
///
/// Returns   the index of a code or a scale that is not finite, if there is one
/// Requires  codes.size() == values.size() == rows x columns of the tensor
std::optional<std::uint64_t> unscale(const ScaledTensor& tensor,
                                     std::span<const std::byte> codes,
                                     std::span<const float> scales,
                                     std::span<std::uint16_t> values);

}  // namespace optiq::checkpoint
