// Codes that make up for each other's errors, in the model that is being converted.
//
// Each matrix is encoded by quantize::encode_gptq with H = sum x x^T of its inputs on
// the calibration windows; the second matrix of each expert by an H of its own. A tied
// embedding gets the H of the head with all of its mean on the diagonal besides, for
// the tokens that are looked up.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "optiq/convert/encoder.h"
#include "optiq/quantize/moments.h"
#include "optiq/sensitivity/sensitivity.h"

namespace optiq::convert {

using Progress = std::function<void(int done, int total)>;

/// One matrix in each of some formats, given the moments of its inputs.
std::vector<quantize::EncodedTensor> compensated(const models::LinearModule& module,
                                                 std::span<const QuantSpec> specs,
                                                 const quantize::Moments& H,
                                                 quantize::Search search);

/// Before the choice: encodes every matrix in every format of its costs, and in
/// `others`, with inputs of the model as it is in the source, and offers the result to
/// the encoder, so that what is verified jointly is near to what will be written. A
/// cost is multiplied by what became of the squared error of the matrix's outputs,
/// unless it is of such codes already.
///
/// Leaves    the model with its own weights
/// Cost      two forward calls over the windows, and encode_gptq for each format;
///           holds the H of one layer, with those of each of its experts.
/// Threads   one.
void compensate_candidates(Encoder& encoder, sensitivity::Sensitivities& costs,
                           const std::vector<QuantSpec>& others,
                           quantize::Search search,
                           const std::vector<std::vector<int>>& windows,
                           const Progress& progress);

/// After it: encodes the matrices of the plan, layer by layer, each with inputs of the
/// model as it is quantized up to its layer, and keeps the result in the encoder.
///
/// Leaves    the model under the plan
/// Cost      two forward calls over the windows, a third where the head is tied, and
///           encode_gptq for each matrix; holds the H of one layer.
/// Threads   one.
void compensate(Encoder& encoder, const Plan& plan, quantize::Search search,
                const std::vector<std::vector<int>>& windows, const Progress& progress);

}  // namespace optiq::convert
