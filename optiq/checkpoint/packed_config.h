// What config.json says of matrices that GPTQ, AWQ or compressed-tensors packed.
#pragma once
#include <cstdint>
#include <optional>

#include "optiq/checkpoint/fields.h"
#include "optiq/kernels/quant_mode.h"

namespace optiq::checkpoint {

/// Who packed them.
///   kGptq        X.qweight [K bits/32, N], X.qzeros [G, N bits/32], X.scales [G, N],
///   and
///                X.g_idx [K]; codes lie along K (AutoGPTQ, GPTQModel)
///   kAwq         X.qweight [K, N/8], X.qzeros [G, N/8], X.scales [G, N]; eight columns
///   a
///                word, in the order 0 2 4 6 1 3 5 7 (AutoAWQ's "gemm")
///   kCompressed  X.weight_packed [N, K bits/32], X.weight_scale [N, G], perhaps
///                X.weight_zero_point [N bits/32, G] ("pack-quantized"), or the bytes
///                [N, K/2] and exponents [N, K/32] of "mxfp4-pack-quantized"
enum class PackedForm : std::uint8_t { kGptq, kAwq, kCompressed };

struct PackedConfig {
  PackedForm form;
  QuantSpec spec;       // group_size 0: one group for each row
  int zero_offset = 0;  // what is added to a stored zero point (1 in GPTQ's first form)
  bool is_ordered = false;  // columns of a group need not be neighbours (desc_act)

  /// MLX's formats have such groups. Else the matrices are seen in float.
  bool has_mlx_form() const { return !is_ordered && is_supported(spec); }
};

/// `quantization_config`, if its quant_method is one of these.
///
/// Throws    CheckpointError naming the key: widths or variants that are not read
/// Source    GPTQModel's and AutoAWQ's config files; compressed-tensors 0.20,
///           quantization/quant_config.py
std::optional<PackedConfig> parse_packed(const Fields& quantization);

}  // namespace optiq::checkpoint
