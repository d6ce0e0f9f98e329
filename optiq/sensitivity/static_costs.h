// Costs of quantization guessed from a module's place and its weights, without running
// the model.
#pragma once
#include <string_view>

#include "optiq/kernels/linear/linear_primitive.h"
#include "optiq/kernels/quant_mode.h"
#include "optiq/quantize/encoded_tensor.h"

namespace optiq::sensitivity {

/// How much harm a relative error in this module does, compared with others: 1 for
/// embeddings and the output head, 0.9 for the first and last block, 0.65 beside them,
/// from 0.45 down to 0.3 in the middle; 0.3 more in attention, 0.4 more for routers of
/// experts, 0.1 less for experts.
///
/// Units     none; only ratios matter.
/// Source    structural priorities in the manner of mlx-optiq's `static` method.
double structural_priority(std::string_view module, int n_blocks);

/// Whether the module is to be upgraded before others: embeddings, the output head,
/// whatever lies outside the blocks, the first and last block, routers and shared
/// experts. The usual weight of such an item is kProtection.
bool is_protected(std::string_view module, int n_blocks);
inline constexpr double kProtection = 100;

/// structural_priority x relative squared error of the format on Gaussian weights: what
/// is known before any weight is read.
///
/// Throws    std::invalid_argument for a format that MLX does not have. 16 bits and
/// more
///           cost nothing.
/// Source    errors measured by rounding_bench, docs/decisions/rounding.md.
double static_cost(std::string_view module, int n_blocks, const QuantSpec& spec);

/// |w - decoded|^2 / |w|^2 of the searched formats on Gaussian weights.
double relative_squared_error(const QuantSpec& spec);

/// |w - decoded|^2 / |w|^2 of a matrix of its own: the perplexity that a layer adds is
/// about linear in it.
///
/// Requires  a format that the matrix fits.
/// Cost      one encoding of about a million values, of rows spread over the matrix; at
///           that size the error is known to about a percent.
/// Source    Malinovskii et al., HIGGS (2411.17525), linearity theorem
double relative_squared_error(const kernels::LinearWeight& w, const QuantSpec& spec,
                              quantize::Search search);

}  // namespace optiq::sensitivity
